"""The Carlini-Wagner L0 attack: as few pixels as possible."""

from __future__ import annotations

import torch
from torch import Tensor

from protoat.attacks.problem import Problem
from protoat.attacks.tightening import Tightening

_SMALL = 0.01  # share of a lead that may be given up in any number of pixels at once
_MOVED = 1e-4


class CarliniWagnerL0(Tightening):
    """Minimises ``||x' - x||^2`` as the L2 attack does, and after each success freezes the pixels that matter least.

    A frozen pixel has its old colour for good. Of a success those are frozen for which ``|g * (x' - x)|``, g being the
    gradient of the lead and summed over the channels of a pixel, is least: up to ``0.3 * sqrt(changed pixels)`` of
    them, and at most one for which it is above 0.01. `closest` gives the number of pixels changed as the distance.

    There is no L0 threat model, so under a budget a success counts where it lies inside, as with `JSMA`, and an image
    is done as soon as one does. A search that fails tries every `c`: 31 of them with the defaults, of `steps` steps
    each.

    Args:
        threat: budget in which a success counts. The search itself always makes the number of pixels small.
        steps: Adam steps for each value of `c`.
        learning_rate: of Adam, in the tanh space of the pixels.
        initial_const: first value of `c`.
        largest_const: a search fails where `c` reaches it.
        const_factor: by which `c` grows after a failure.
        kappa: the label must be beaten (or the target lead) by this much.
        bn: batch norm while attacking.

    Raises:
        ValueError: see `Tightening`.

    Source: Carlini & Wagner, IEEE S&P 2017, section VI-B, with the constants of the authors' code. Deviation: pixels
    are ranked by the gradient of the lead, as in the paper, where the code takes that of the whole loss; pixels at 0
    and 1 start 5e-4 inside.

    >>> from protoat.threats import L2
    >>> model, x, y = torch.nn.Flatten(), torch.tensor([[[[0.6, 0.2]]]]), torch.tensor([0])
    >>> CarliniWagnerL0(L2(1), steps=100, learning_rate=0.05, largest_const=100.0).closest(model, x, y).distance
    tensor([1.])
    """

    def length(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """(B,) number of pixels changed; a pixel has one value in each channel."""
        return _pixels(x_adv != x).any(1).sum(1).to(x.dtype)

    def widest(self, x: Tensor) -> Tensor:
        return torch.ones_like(x, dtype=torch.bool)

    def held(self, x_adv: Tensor, x: Tensor, limit: Tensor) -> Tensor:
        return torch.where(limit, x_adv, x)

    def cost(self, x_adv: Tensor, x: Tensor, limit: Tensor) -> Tensor:
        return (x_adv - x).flatten(1).square().sum(1)

    def kept(self, cost: Tensor, const: Tensor) -> Tensor:
        return torch.ones_like(cost, dtype=torch.bool)

    def tighter(self, problem: Problem, x_adv: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
        leaf = x_adv.detach().requires_grad_()
        (slope,) = torch.autograd.grad(problem.lead(problem.model(leaf)).sum(), leaf)
        moved = _pixels(x_adv - problem.x).abs()
        matters = (moved * _pixels(slope).abs()).sum(1)
        free = freeze(matters, _pixels(limit)[:, 0], (moved > _MOVED).any(1).sum(1))
        return free[:, None].expand_as(_pixels(limit)).reshape(limit.shape), free.any(1)


def freeze(matters: Tensor, free: Tensor, changed: Tensor) -> Tensor:
    """The pixels that are still free, (B, P) bool, after those that matter least are frozen.

    Args:
        matters: (B, P) how much of the lead hangs on each pixel.
        free: (B, P) bool, those that were free.
        changed: (B,) number of pixels changed.

    >>> freeze(torch.tensor([[0.001, 0.5, 0.002, 0.0]]), torch.tensor([[True, True, True, False]]), torch.tensor([16]))
    tensor([[False,  True, False, False]])
    """
    matters = matters.masked_fill(~free, torch.inf)
    rank = matters.argsort(dim=1, stable=True).argsort(1)
    unimportant = (matters <= _SMALL).sum(1) + 1
    quota = (0.3 * changed.to(matters.dtype).sqrt()).ceil().clamp_min(1)
    return free & (rank >= torch.minimum(unimportant.to(quota), quota)[:, None])


def _pixels(images: Tensor) -> Tensor:
    """(B, C, P): channels and pixels; a vector has one channel."""
    return images.flatten(2) if images.dim() > 2 else images[:, None]
