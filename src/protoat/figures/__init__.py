"""Figures of the paper and others, drawn from runs."""
