"""The L1 ball: projection, sparse steps, and a budget spent on one pixel after the other."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["QUANTILE", "shrink", "sparse_direction", "spend"]

QUANTILE = 0.99


def shrink(size: Tensor, room: Tensor, budget: Tensor) -> Tensor:
    """The nearest point to `size`, in L2, whose entries lie in [0, room] and add up to `budget` at most.

    Entries are ``min(max(size - shift, 0), room)``. Their sum falls as the shift grows, so that bisection finds the one
    at which it meets the budget; of the two ends it takes the one that keeps to the budget.

    Args:
        size: (B, D), not negative.
        room: (B, D) upper bounds, not negative; inf for none.
        budget: (B,) or (1,).

    Source: Croce & Hein, ICML 2021, "Mind the box", Proposition 2.1. Deviation: bisection in place of sorting.

    >>> shrink(torch.tensor([[0.9, 0.5, 0.1]]), torch.tensor([[0.2, 1.0, 1.0]]), torch.tensor([0.5]))
    tensor([[0.2000, 0.3000, 0.0000]])
    """
    low, high = torch.zeros_like(size[:, :1]), size.amax(1, keepdim=True)
    within = torch.minimum(size, room)
    fits = within.sum(1) <= budget
    for _ in range(torch.finfo(size.dtype).bits):
        middle = (low + high) / 2
        above = torch.minimum((size - middle).clamp_min_(0), room).sum(1) > budget
        low, high = torch.where(above[:, None], middle, low), torch.where(above[:, None], high, middle)
    return torch.where(fits[:, None], within, torch.minimum((size - high).clamp_min_(0), room))


def sparse_direction(gradient: Tensor, quantile: float = QUANTILE) -> Tensor:
    """Signs of the largest entries of each gradient, divided by their number; zero along a zero gradient.

    Args:
        gradient: (B, D).
        quantile: share of the entries that stay zero; those as large as the quantile do not.

    Source: SLIDE, Tramèr & Boneh, NeurIPS 2019, Alg. 1.

    >>> sparse_direction(torch.tensor([[3.0, -4.0, 1.0, 0.0, 2.0]]), 0.6)
    tensor([[ 0.5000, -0.5000,  0.0000,  0.0000,  0.0000]])
    """
    size = gradient.abs()
    count = size.shape[1] - math.ceil(quantile * (size.shape[1] - 1))
    least = size.topk(count, dim=1).values[:, -1:]
    signs = torch.where(size >= least, gradient.sign(), 0.0)
    return signs / signs.abs().sum(1, keepdim=True).clamp_min(1)


def spend(order: Tensor, most: Tensor, budget: Tensor, price: Tensor | None = None) -> Tensor:
    """How far each entry moves when a budget is spent on one after the other, each going as far as it may.

    Args:
        order: (B, D) the largest comes first.
        most: (B, D) how far each may go, not negative.
        budget: (B,) or (1,).
        price: (B, D) what a move of length 1 costs, 1 by default. An entry whose price is 0 stays.

    >>> spend(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([[1.0, 0.4, 1.0]]), torch.tensor([0.5]))
    tensor([[0.0000, 0.4000, 0.1000]])
    """
    price = torch.ones_like(most) if price is None else price
    rank = order.argsort(dim=1, descending=True, stable=True)
    cost = (most * price).gather(1, rank)
    paid = torch.minimum((budget[:, None] - (cost.cumsum(1) - cost)).clamp_min(0), cost)
    paid = torch.empty_like(paid).scatter_(1, rank, paid)
    return torch.where(price > 0, paid / price.clamp_min(torch.finfo(price.dtype).tiny), 0.0)
