"""Metric-learning regularizers."""

from protoat.regularizers.base import Regularizer
from protoat.regularizers.metric import NPair, ProxyAnchor, ProxyNCA, Triplet
from protoat.regularizers.soft_triple import SoftTriple
from protoat.regularizers.tla import TLA

__all__ = ["TLA", "NPair", "ProxyAnchor", "ProxyNCA", "Regularizer", "SoftTriple", "Triplet"]
