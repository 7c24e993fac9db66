"""Auto-PGD for L1: sparse steps that adapt how many pixels they move, in balls that shrink to the radius."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from protoat.attacks.active import is_adversarial, select
from protoat.attacks.ascent import Ascent, Score, measure
from protoat.attacks.problem import Problem
from protoat.functional.batch import leading, noise_like
from protoat.functional.l1 import largest_signs
from protoat.functional.norms import Norm

_SHRINK = 1.5
_SHORTEST = 10


@dataclass
class _Sparse(Ascent):
    """How many pixels each perturbation had at the last checkpoint, and the first and present length of the step."""

    spread: Tensor
    longest: Tensor

    @classmethod
    def begin(cls, problem: Problem, x_adv: Tensor, loss: Tensor, gradient: Tensor) -> _Sparse:
        rows = torch.arange(len(x_adv), device=x_adv.device)
        longest = torch.zeros_like(loss) + problem.eps
        spread = _pixels(x_adv, problem.x)
        return cls(rows, x_adv, gradient, x_adv, gradient, loss, longest, spread, longest)

    def direction(self) -> Tensor:
        """Signs of as many of the largest slopes as the perturbation has pixels, divided by 1.5."""
        count = (self.spread / _SHRINK).ceil().clamp_min(1).long()
        return largest_signs(self.gradient.flatten(1), count).view_as(self.gradient)

    def checkpoint(self, x: Tensor) -> None:
        """The whole step again from the best point where the perturbation got sparser, else a shorter step."""
        spread = _pixels(self.best, x)
        sparser = spread < 0.95 * self.spread
        self.spread = spread
        shorter = torch.maximum(self.step / _SHRINK, self.longest / _SHORTEST)
        self.step = torch.where(sparser, self.longest, shorter)
        self.back_to_best(sparser)


def climb_sparse(problem: Problem, aims: Tensor, score: Score, *, norm: Norm, steps: int) -> Tensor:
    """One run of APGD-L1 from a random start; an image leaves the batch once it is adversarial inside the ball itself.

    Three tenths of the steps are taken in a ball of three times the radius, three tenths at twice the radius, and the
    rest in the ball itself; each part begins at the projection of the best point of the one before.

    Args:
        problem, aims, score, norm, steps: as in `Climbing.climb`.

    Returns:
        (B, ...) images: adversarial examples where found, else the points of highest score.

    Source: Croce & Hein, ICML 2021, "Mind the box", Alg. 1 and sec. 4.2.
    """
    best = problem.x + noise_like(problem.x, norm.noise, problem.generator)
    for factor, count in _balls(steps):
        larger = problem._replace(eps=factor * problem.eps)
        start = norm.project(best, problem.x, larger.eps)
        best = _climb(larger, aims, score, start, norm=norm, steps=count, leave=factor == 1)
    return best


def _balls(steps: int) -> Iterator[tuple[int, int]]:
    """Radii as multiples of the ball's own, and steps in each.

    >>> list(_balls(100)), list(_balls(2))
    ([(3, 30), (2, 30), (1, 40)], [(1, 2)])
    """
    part = int(0.3 * steps)
    yield from ((factor, part) for factor in (3, 2) if part)
    yield 1, steps - 2 * part


def _climb(
    problem: Problem, aims: Tensor, score: Score, start: Tensor, *, norm: Norm, steps: int, leave: bool
) -> Tensor:
    """One part of a run; with `leave`, an image that is adversarial leaves the batch."""
    result = start.clone()
    loss, gradient, logits = measure(problem, start, score, aims)
    at, every = _Sparse.begin(problem, start, loss, gradient), max(int(0.04 * steps), 1)
    for done in range(steps + 1):
        if leave and bool((adversarial := is_adversarial(problem, logits)).any()):
            result[at.rows[adversarial]] = at.x_adv[adversarial]
            problem, aims = select(problem, ~adversarial), aims[~adversarial]
            at.keep(~adversarial)
        if done == steps or not len(aims):
            break
        if done and done % every == 0:
            at.checkpoint(problem.x)
        at.x_adv = norm.project(at.x_adv + leading(at.step, at.x_adv) * at.direction(), problem.x, problem.eps)
        loss, gradient, logits = measure(problem, at.x_adv, score, aims)
        at.observe(loss, gradient)
    result[at.rows] = at.best
    return result


def _pixels(x_adv: Tensor, x: Tensor) -> Tensor:
    """How many pixels differ, all channels counted, (B,)."""
    return (x_adv != x).flatten(1).sum(1).to(x.dtype)
