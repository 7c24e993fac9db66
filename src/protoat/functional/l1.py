"""The L1 ball: projection, sparse steps, and a budget that is spent on one pixel after the other."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from protoat.functional.batch import Radius

_QUANTILE = 0.99


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
    within = torch.minimum(size, room)
    fits = (within.sum(1) <= budget)[:, None]
    low, high = torch.zeros_like(size[:, :1]), size.amax(1, keepdim=True)
    entries = torch.empty_like(size)  # one memory for all rounds: to ask for new ones takes most of the time
    with torch.no_grad():
        for _ in range(torch.finfo(size.dtype).bits):
            middle = (low + high) / 2
            torch.minimum(torch.sub(size, middle, out=entries).clamp_min_(0), room, out=entries)
            above = (entries.sum(1) > budget)[:, None]
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return torch.where(fits, within, torch.minimum((size - high).clamp_min_(0), room))


def largest_signs(gradient: Tensor, count: Tensor) -> Tensor:
    """Signs of the largest entries of each gradient, divided by their number; zero along a zero gradient.

    Args:
        gradient: (B, D).
        count: how many, (B,) or (1,) int64, from 1 to D; more where entries are as large as the last of them.

    >>> largest_signs(torch.tensor([[3.0, -4.0, 1.0, 0.0, 2.0]]), torch.tensor([2]))
    tensor([[ 0.5000, -0.5000,  0.0000,  0.0000,  0.0000]])
    """
    size = gradient.abs()
    last = (count - 1).expand(len(size)).to(size.device)[:, None]
    least = size.topk(int(count.max()), dim=1).values.gather(1, last)
    signs = torch.where(size >= least, gradient.sign(), 0.0)
    return signs / signs.abs().sum(1, keepdim=True).clamp_min(1)


def slide_count(pixels: int, length: Radius) -> Tensor:
    """How many of the pixels a step of SLIDE moves, (B,) or (1,): those from the 99th percentile of the slopes on.

    Args:
        pixels: of an image, all channels counted.
        length: of the step, a number or (B,). A pixel moves by 1 at most, so a long step needs as many pixels.

    Source: Tramèr & Boneh, NeurIPS 2019, Alg. 1, with the percentile of their CIFAR-10 models. Deviation: long steps.

    >>> slide_count(3 * 32 * 32, 12.0), slide_count(64, 2.5)
    (tensor([31]), tensor([3]))
    """
    usual = pixels - math.ceil(_QUANTILE * (pixels - 1))
    return torch.as_tensor(length).reshape(-1).ceil().clamp(usual, pixels).long()


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


def budget_of(eps: Radius, like: Tensor) -> Tensor:
    """A radius as (B,) or (1,), of the type and where `like` is.

    >>> budget_of(0.5, torch.zeros(2, 3))
    tensor([0.5000])
    """
    return torch.as_tensor(eps, dtype=like.dtype, device=like.device).reshape(-1)


def room(direction: Tensor, x: Tensor) -> Tensor:
    """How far each pixel may go in a direction before it leaves [0, 1].

    >>> room(torch.tensor([1.0, -1.0]), torch.tensor([0.75, 0.75]))
    tensor([0.2500, 0.7500])
    """
    return torch.where(direction > 0, 1 - x, x)


def movable(gradient: Tensor, x: Tensor) -> Tensor:
    """A gradient, but 0 for pixels that are at the end it points to.

    >>> movable(torch.tensor([3.0, -2.0, 1.0]), torch.tensor([1.0, 0.5, 0.0]))
    tensor([ 0., -2.,  1.])
    """
    return torch.where(room(gradient, x) > 0, gradient, 0.0)
