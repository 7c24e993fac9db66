"""How the images of a class are shared out over its prototypes, and which prototypes nobody uses.

Shapes: C classes, K places for the prototypes of a class.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def shares(counts: Tensor) -> Tensor:
    """Share of the images of its class that each prototype has, (C, K) float64; 0 for a class without images.

    >>> shares(torch.tensor([[3, 1], [0, 0]]))
    tensor([[0.7500, 0.2500],
            [0.0000, 0.0000]], dtype=torch.float64)
    """
    return counts.double() / counts.sum(1, keepdim=True).clamp_min(1e-12).double()


def after_merges(share: Tensor, pairs: Sequence[Sequence[int]]) -> Tensor:
    """The shares (C, K) where pairs merged, one after the other: a prototype that is kept has those of both.

    Args:
        share: (C, K).
        pairs: rows [class, place kept, place given up].

    >>> after_merges(torch.tensor([[0.25, 0.5, 0.25]]), [[0, 1, 2], [0, 0, 1]])
    tensor([[1., 0., 0.]])
    """
    share = share.clone()
    for own, kept, gone in pairs:
        share[own, kept] += share[own, gone]
        share[own, gone] = 0
    return share


def unused(active: Tensor, share: Tensor, below: float) -> Tensor:
    """Mask (C, K) of active prototypes whose share is below a threshold; the largest of each class is never among them.

    A class without images has none.

    >>> unused(torch.ones(1, 3, dtype=torch.bool), torch.tensor([[0.7, 0.295, 0.005]]), 0.01)
    tensor([[False, False,  True]])
    """
    largest = torch.zeros_like(active).scatter_(1, share.argmax(1, keepdim=True), value=True)
    return active & (share < below) & ~largest & (share.sum(1, keepdim=True) > 0)


def in_use(active: Tensor, share: Tensor, below: float) -> Tensor:
    """How many prototypes of each class are used, (C,); of a class without images, all that are active.

    >>> in_use(torch.ones(1, 3, dtype=torch.bool), torch.tensor([[0.7, 0.295, 0.005]]), 0.01)
    tensor([2])
    """
    return (active & ~unused(active, share, below)).sum(1)
