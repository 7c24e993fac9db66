"""Sections of a report: each a function from records to blocks, one file for each family."""
