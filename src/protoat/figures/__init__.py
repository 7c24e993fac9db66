"""Figures of the paper and others, drawn from runs."""

from protoat.figures.catalogue import FIGURES, Drawing, View

__all__ = ["FIGURES", "Drawing", "View"]
