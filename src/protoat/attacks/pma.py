"""Probability margin attack: PGD on the margin between probabilities, its steps falling along a cosine."""

from __future__ import annotations

import math

from torch import Tensor

from protoat.arguments import check_whole
from protoat.attacks.active import gradient_run, worst_case
from protoat.attacks.base import Attack
from protoat.attacks.gradient import ascend
from protoat.attacks.mode import BatchNormMode
from protoat.attacks.problem import Problem
from protoat.functional.batch import Radius
from protoat.functional.margins import own_probability, probability_margin
from protoat.threats import ThreatModel


def cosine_step(done: int, steps: int) -> float:
    """The length of a step in radii after `done` of so many: from 2 down to 0 along a cosine, twice.

    >>> [round(cosine_step(done, 8), 3) for done in range(8)]
    [2.0, 1.707, 1.0, 0.293, 2.0, 1.707, 1.0, 0.293]
    """
    half = -(-steps // 2)
    return 1 + math.cos(math.pi * (done % half) / half)


class PMA(Attack):
    """Probability margin attack: the probability of the label falls first, then the margin between probabilities rises.

    Args:
        threat: norm and radius.
        steps: gradient steps for each restart. The first half lowers ``p_y``, the second raises
            ``max_{j != y} p_j - p_y``; within each, steps fall from two radii to none along a cosine.
        restarts: independent runs, each on the images that are still robust.
        bn: batch norm while attacking.
        seed: repeats a call when no generator is passed.

    Raises:
        ValueError: fewer than one step or restart.

    With targets the roles are changed: their probability rises first, then their margin over all others.

    Source: Xie et al., 2024, "Towards million-scale adversarial robustness evaluation with stronger individual
    attacks"; the two halves and their steps are those of Ma et al., 2020, "Imbalanced gradients", as in their code.
    Deviation: every restart lowers ``p_y`` first, and none takes a step up it; an adversarial image leaves the batch at
    once.

    >>> from protoat.threats import Linf
    >>> PMA(Linf("8/255")).parameters()["steps"]
    100
    """

    def __init__(
        self,
        threat: ThreatModel,
        *,
        steps: int = 100,
        restarts: int = 1,
        bn: BatchNormMode = "eval",
        seed: int = 0,
    ) -> None:
        super().__init__(threat, bn=bn, seed=seed)
        check_whole(steps=steps, restarts=restarts)
        self.steps = steps
        self.restarts = restarts

    @property
    def coarse_runs(self) -> bool:
        return True

    def run(self, problem: Problem) -> Tensor:
        norm, half = self.threat.geometry, -(-self.steps // 2)
        losses = [own_probability] * half + [probability_margin] * (self.steps - half)

        def once(part: Problem, _: Tensor) -> Tensor:
            start = norm.random_start(part.x, part.eps, part.generator)
            with gradient_run(part, self.steps):
                return ascend(part, start, norm, losses, self._length, leave=True)

        return worst_case(problem, norm, [once] * self.restarts)

    def _length(self, done: int, eps: Radius) -> Radius:
        return cosine_step(done, self.steps) * eps
