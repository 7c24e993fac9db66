"""Balanced soft assignment: Sinkhorn's iteration."""

from __future__ import annotations

import math

from torch import Tensor

from protoat.arguments import check_number, check_whole
from protoat.errors import UserError


def sinkhorn(scores: Tensor, *, epsilon: float = 0.05, iterations: int = 100) -> Tensor:
    """Shares of each example in each cluster, of which all clusters get equally much.

    Args:
        scores: (M, K), higher is nearer, of order 1.
        epsilon: strength of the entropy in the units of `scores`; towards 0 the shares become a hard assignment.
        iterations: how often columns and rows are normalised in turn.

    Returns:
        (M, K) float64. Rows sum to 1; columns sum to M / K, up to what the iterations leave.

    Raises:
        ValueError: no scores, or an argument out of range.

    Source: Cuturi, NeurIPS 2013; as assignment to clusters, Asano et al., ICLR 2020 (self-labelling).

    >>> import torch
    >>> sinkhorn(torch.tensor([[1.0, 0.0], [0.9, 0.0]])).argmax(1)
    tensor([0, 1])
    """
    check_number("(0, inf)", epsilon=epsilon)
    check_whole(iterations=iterations)
    if scores.dim() != 2 or not scores.numel():
        raise UserError(f"scores have shape {tuple(scores.shape)}, expected (M, K) of at least one example")
    log = scores.double() / epsilon
    size = math.log(len(scores) / scores.shape[1])
    for _ in range(iterations):
        log = log - log.logsumexp(0) + size
        log = log - log.logsumexp(1, keepdim=True)
    return log.exp()
