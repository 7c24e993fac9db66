"""Experiments: recipes become objects, runs become records."""
