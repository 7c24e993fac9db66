"""Figures of the paper and others, drawn from runs."""

from protoat.paper.figures.titles import TITLES

__all__ = ["TITLES"]
