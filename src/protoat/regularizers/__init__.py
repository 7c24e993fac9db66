"""Metric-learning regularizers."""

from protoat.regularizers.base import Regularizer

__all__ = ["Regularizer"]
