"""The nearest prototype of each image."""

from __future__ import annotations

import torch
from torch import Tensor

from protoat.functional.cosines import cosines as of_all


def cosines(embedding: Tensor, prototypes: Tensor, active: Tensor) -> Tensor:
    """Cosine of each embedding (M, D) to each prototype (C, K, D), (M, C, K); -inf to those that are not active."""
    return of_all(embedding, prototypes)[0].masked_fill(~active, float("-inf"))


def assign(embedding: Tensor, labels: Tensor, prototypes: Tensor, active: Tensor) -> Tensor:
    """The nearest prototype of its own class for each image, (M,) int64 places in 0..K-1.

    >>> prototypes = torch.eye(2).expand(2, 2, 2)
    >>> assign(torch.tensor([[0.0, 1.0], [3.0, 1.0]]), torch.tensor([0, 1]), prototypes, torch.ones(2, 2) > 0)
    tensor([1, 0])
    """
    return cosines(embedding, prototypes, active)[torch.arange(len(labels)), labels].argmax(1)
