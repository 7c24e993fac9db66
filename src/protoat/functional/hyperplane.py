"""The projection of a point of the box [0, 1] onto a hyperplane (DeepFool, FAB)."""

from __future__ import annotations

import torch
from torch import Tensor


def shared_step(x: Tensor, normal: Tensor, rise: Tensor, *, proportional: bool) -> Tensor:
    """Smallest `d` with ``normal . d = rise`` and ``x + d`` in [0, 1]; all the way to the box where none is.

    Coordinate i moves by ``min(s * w_i, room_i)`` with ``w_i = |normal_i|`` (smallest in L2) or ``w_i = 1`` (in L-inf),
    for one scale s. The rise is a concave, piecewise linear function of s, so Newton's method from 0 reaches it from
    below in a few sweeps, with no sorting.

    Args:
        x: (B, D) points in [0, 1].
        normal: (B, D) normals.
        rise: (B,) wanted change of ``normal . x``, of either sign.
        proportional: each coordinate moves in proportion to its part of the normal, and not all alike.

    Source: the projections of FAB, Croce & Hein, ICML 2020, sec. 3.1. Deviation: Newton's method in place of sorting.

    >>> x, normal = torch.tensor([[0.5, 0.9]]), torch.tensor([[1.0, 1.0]])
    >>> shared_step(x, normal, torch.tensor([0.4]), proportional=False)
    tensor([[0.3000, 0.1000]])
    """
    direction = normal * rise.sign()[:, None]
    room = torch.where(direction > 0, 1 - x, x)
    weight, goal = normal.abs().masked_fill_(room <= 0, 0), rise.abs()
    speed, gain = (weight, weight.square()) if proportional else (torch.ones_like(goal[:, None]), weight)
    scale = goal / gain.sum(1).clamp_min(1e-30)
    for _ in range(50):
        moved = torch.minimum(speed * scale[:, None], room)
        missing = goal - (weight * moved).sum(1)
        slope = gain.masked_fill(moved >= room, 0).sum(1)
        # Without slope the whole box does not reach the plane, and all room is used already.
        short = (missing > 1e-5 * goal) & (slope > 0)
        if not bool(short.any()):
            break
        scale = torch.where(short, scale + missing / slope, scale)
    return moved * direction.sign()
