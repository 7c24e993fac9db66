"""Proposals of Square for L2 and L1, where all pixels share one budget: bumps that take it from others."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from protoat.attacks.problem import Problem
from protoat.functional.batch import leading
from protoat.functional.norms import Norm

Window = tuple[slice, ...]


def coin(problem: Problem, *shape: int) -> Tensor:
    """Random booleans for each image, (B, *shape)."""
    return torch.rand(len(problem.x), *shape, generator=problem.generator, device=problem.x.device) < 0.5


def signs(problem: Problem) -> Tensor:
    """A random sign for each image and channel."""
    return torch.where(coin(problem, problem.x.shape[1], 1, 1), 1.0, -1.0).to(problem.x.dtype)


def window_at(x: Tensor, side: int, place: list[float]) -> Window:
    """The square of `side` whose corner lies at `place`, uniform numbers in [0, 1)."""
    top, left = (int(share * (extent - side + 1)) for share, extent in zip(place, x.shape[2:], strict=True))
    return slice(None), slice(None), slice(top, top + side), slice(left, left + side)


def tile(problem: Problem, norm: Norm) -> Tensor:
    """Where the search starts: the whole image tiled with bumps of random sign."""
    delta = torch.zeros_like(problem.x)
    height, width = delta.shape[2:]
    side = max(min(height, width) // 5, 1)
    for top in range(height % side // 2, height - side + 1, side):
        for left in range(width % side // 2, width - side + 1, side):
            bump = _bump(side, norm.order).to(delta) * signs(problem)
            delta[:, :, top : top + side, left : left + side] = bump
    return _spent(problem, delta, norm)


def move_budget(problem: Problem, x_adv: Tensor, side: int, draw: list[float], norm: Norm) -> tuple[Tensor, Tensor]:
    """Empties one window and spends what it held, and what is free, on a bump in another one; all rows change.

    Budgets are sums of p-th powers. Under L1 a bump gets as much for each channel as there is for all, as in the
    authors' code: the projection cuts its small parts off.
    """
    p = norm.order
    side = min(max(side, 3) // 2 * 2 + 1, *x_adv.shape[2:])
    target, source = window_at(x_adv, side, draw[:2]), window_at(x_adv, side, draw[2:4])
    delta = x_adv - problem.x
    both = torch.zeros_like(delta[:1])
    both[target], both[source] = 1.0, 1.0
    moved = (delta * both).abs().pow(p).sum((2, 3), keepdim=True)
    free = (problem.eps**p - delta.flatten(1).abs().pow(p).sum(1)).clamp_min(0) / delta.shape[1]
    bump = (_bump(side, p).T if draw[4] > 0.5 else _bump(side, p)).to(delta) * signs(problem)
    bump = bump + _unit(delta[target], p)
    size = (leading(free, delta) + moved).pow(1 / p) * (delta.shape[1] if norm.sparse else 1)
    delta[source] = 0.0
    delta[target] = _unit(bump, p) * size
    return torch.arange(len(delta), device=delta.device), _spent(problem, delta, norm)


def _unit(patch: Tensor, p: float) -> Tensor:
    """Each channel of each image at length 1."""
    return patch / patch.abs().pow(p).sum((2, 3), keepdim=True).pow(1 / p).clamp_min(1e-12)


def _spent(problem: Problem, delta: Tensor, norm: Norm) -> Tensor:
    """Images at distance eps in the direction of `delta`, before they are cut to [0, 1]; under L1 projected instead."""
    length = norm.distance(delta, torch.zeros_like(delta)).clamp_min(1e-12)
    stretch = problem.eps / length
    if norm.sparse:
        return norm.project(problem.x + delta * leading(stretch.clamp_min(1), delta), problem.x, problem.eps)
    return (problem.x + delta * leading(stretch, delta)).clamp(0, 1)


@cache
def _bump(side: int, p: float) -> Tensor:
    """Two opposite pyramids one above the other, (side, side), of length 1."""
    bump = torch.cat([_pyramid(side // 2, side, p), -_pyramid(side - side // 2, side, p)])
    return bump / torch.linalg.vector_norm(bump, p)


def _pyramid(height: int, width: int, p: float) -> Tensor:
    """Nested rectangles that add up towards the centre, (height, width), of length 1.

    The p-th power of each falls with the fourth power of its ring.
    """
    pyramid = torch.zeros(height, width)
    top, left = height // 2, width // 2
    for ring in range(max(height, width) // 2 + 1):
        rows = slice(max(top - ring, 0), top + ring + 1)
        pyramid[rows, max(left - ring, 0) : left + ring + 1] += 1 / (ring + 1) ** (4 / p)
    return pyramid / torch.linalg.vector_norm(pyramid, p).clamp_min(1e-12)
