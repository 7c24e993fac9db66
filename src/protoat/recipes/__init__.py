"""Recipes: every choice of a run as YAML, and the code that turns one into typed objects."""
