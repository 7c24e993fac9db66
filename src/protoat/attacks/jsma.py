"""Jacobian saliency map attack: few pixels, chosen in pairs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from protoat.arguments import check_number
from protoat.attacks.active import is_adversarial, select
from protoat.attacks.base import Attack
from protoat.attacks.mode import BatchNormMode
from protoat.attacks.problem import Problem
from protoat.attacks.targets import ranked_wrong_classes
from protoat.errors import UserError
from protoat.functional.gradients import gradient_of
from protoat.threats import ThreatModel
from protoat.types import Output

# Entries of the table of pixel pairs that are held at once: 64 MiB in float32.
_TABLE = 2**24
# 128 x 128 in one channel; a table of pairs for one image then takes a gibibyte.
_MOST_PIXELS = 2**14


class JSMA(Attack):
    """Moves two pixels at a time, those that raise the target's logit and lower the sum of the others most.

    Args:
        threat: budget that every step is held to.
        theta: by how much a chosen pixel moves, negative to darken. Default under L-inf the radius of `threat`, else 1.
        gamma: largest share of the pixels that may move, in (0, 1].
        bn: batch norm while attacking.

    Raises:
        ValueError: `theta` 0 or beyond 1, `gamma` outside (0, 1].

    Without targets it goes for the likeliest wrong class. The table of pairs has ``n * n`` entries for n pixels, so use
    it on hundreds of images, not thousands.

    Source: Papernot et al., EuroS&P 2016, Alg. 2 and 3 (gamma 0.145 there). Deviation: gradients of logits, as in
    cleverhans; a pixel moves once; steps stay inside the budget.

    >>> from protoat.threats import Linf
    >>> JSMA(Linf(0.3)).theta
    0.3
    """

    def __init__(
        self,
        threat: ThreatModel,
        *,
        theta: float | None = None,
        gamma: float = 0.145,
        bn: BatchNormMode = "eval",
    ) -> None:
        super().__init__(threat, bn=bn)
        check_number("(0, 1]", gamma=gamma)
        if theta is not None:
            check_number("[-1, 1]", theta=theta)
        self.theta = float(theta if theta is not None else threat.geometry.pixel_reach(threat.eps))
        if not 0 < abs(self.theta) <= 1:
            raise UserError(f"theta={self.theta:g} is outside [-1, 1] or 0; pixels are in [0, 1]")
        self.gamma = gamma

    def check(self, images: tuple[int, ...], output: Output) -> None:
        pixels = math.prod(images[1:])
        if pixels > _MOST_PIXELS:
            pairs, steps = pixels**2, max(int(self.gamma * pixels / 2), 1)
            raise UserError(
                f"JSMA compares all pairs of pixels, and an image of {pixels} pixels has {pairs:.2g} pairs "
                f"({4 * pairs / 2**30:.0f} GiB for each table of them), up to {steps} times for each image; it takes "
                f"images of at most {_MOST_PIXELS} pixels, all channels counted"
            )

    def run(self, problem: Problem) -> Tensor:
        result = x_adv = problem.x.clone()
        free = x_adv < 1 if self.theta > 0 else x_adv > 0
        rows = torch.arange(len(x_adv), device=x_adv.device)
        goal = problem.targets
        for _ in range(max(int(self.gamma * x_adv[0].numel() / 2), 1)):
            leaf = x_adv.detach().requires_grad_()
            logits = problem.model(leaf).logits
            if goal is None:
                goal = ranked_wrong_classes(logits.detach(), problem.y)[:, 0]
            towards, away = (math.copysign(1, self.theta) * slope for slope in _slopes(logits, leaf, goal))
            pixels, found = _best_pairs(towards, away, free.flatten(1))
            stay = found & ~is_adversarial(problem, logits)
            if not bool(stay.any()):
                break
            problem, rows, goal = select(problem, stay), rows[stay], goal[stay]
            moved = torch.zeros_like(free[stay]).flatten(1).scatter_(1, pixels[stay], True).view_as(free[stay])
            x_adv = self.threat.geometry.project(x_adv[stay] + self.theta * moved, problem.x, problem.eps)
            free = free[stay] & ~moved
            result[rows] = x_adv
        return result


def _slopes(logits: Tensor, leaf: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients, (B, n) each, of the goal's logit and of the sum of all others."""
    own = logits.gather(1, goal[:, None]).sum()
    towards = gradient_of(own, leaf, retain_graph=True)
    whole = gradient_of(logits.sum(), leaf)
    return towards.flatten(1), (whole - towards).flatten(1)


def _best_pairs(towards: Tensor, away: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """The two free pixels of largest saliency ``-alpha * beta``, (B, 2), and whether any pair qualifies, (B,).

    Of a pair, alpha is the sum of the slopes of the goal's logit, to be positive, and beta that of the other logits, to
    be negative.
    """
    pixels = towards.shape[1]
    towards = towards.masked_fill(~free, -torch.inf)
    same = torch.eye(pixels, dtype=torch.bool, device=free.device)
    best, found = [], []
    for part in torch.arange(len(free), device=free.device).split(max(_TABLE // pixels**2, 1)):
        alpha = towards[part, :, None] + towards[part, None, :]
        beta = away[part, :, None] + away[part, None, :]
        saliency = torch.where((alpha > 0) & (beta < 0) & ~same, -alpha * beta, 0.0)
        value, place = saliency.flatten(1).max(1)
        best.append(torch.stack([place // pixels, place % pixels], 1))
        found.append(value > 0)
    return torch.cat(best), torch.cat(found)
