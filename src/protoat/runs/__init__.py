"""Runs: recipes become trained weights, weights become records."""
