"""Plots of runs: curves, prototypes, embeddings, retrieval."""
