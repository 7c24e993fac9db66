"""Probability margin attack: PGD on the margin between probabilities, its steps falling along a cosine."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from protoat.arguments import check_whole
from protoat.attacks.active import among, gradient_run, succeeded, worst_case
from protoat.attacks.base import Attack
from protoat.attacks.gradient import input_gradient
from protoat.attacks.mode import BatchNormMode
from protoat.attacks.problem import Problem
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
        def once(part: Problem, _: Tensor) -> Tensor:
            with gradient_run(part, self.steps):
                return self._ascend(part)

        return worst_case(problem, self.threat.geometry, [once] * self.restarts)

    def _ascend(self, problem: Problem) -> Tensor:
        norm = self.threat.geometry
        x_adv = norm.random_start(problem.x, problem.eps, problem.generator)
        result, rows = x_adv.clone(), torch.arange(len(x_adv), device=x_adv.device)
        for done in range(self.steps):
            labels, sign = problem.goal
            loss = own_probability if done < self.steps / 2 else probability_margin
            gradient, _, output = input_gradient(problem.model, x_adv, labels, loss)
            if bool((found := succeeded(problem, x_adv, output.logits)).any()):
                result[rows[found]] = x_adv[found]
                problem, rows, x_adv, gradient = among(~found, problem, rows, x_adv, gradient)
                if not len(rows):
                    return result
            stepped = x_adv + norm.step(sign * gradient, cosine_step(done, self.steps) * problem.eps, x_adv)
            x_adv = norm.project(stepped, problem.x, problem.eps)
        result[rows] = x_adv
        return result
