"""SPSA: climbs gradients that it estimates from the scores of random neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from protoat.arguments import check_number, check_whole
from protoat.attacks.active import select, worst_case
from protoat.attacks.adam import Adam
from protoat.attacks.base import Attack
from protoat.attacks.mode import BatchNormMode
from protoat.attacks.problem import Problem
from protoat.functional.batch import leading, noise_like
from protoat.threats import ThreatModel


class SPSA(Attack):
    """Climbs the margin by Adam along estimated gradients; it needs scores and no gradients.

    The estimate is the mean over random signs `v` of ``(lead(x + delta v) - lead(x - delta v)) / (2 delta) v``. It
    crosses plateaus and steps narrower than `delta`, where gradients say nothing. An image is left as soon as it is
    adversarial.

    Args:
        threat: norm and radius.
        steps: of Adam.
        pairs: of neighbours for each estimate, two forwards each.
        delta: by how much a neighbour differs in each pixel.
        learning_rate: of Adam, in pixels.
        bn: batch norm while attacking.
        seed: repeats a call when no generator is passed.

    Raises:
        ValueError: no step or pair, `delta` outside (0, 1], a learning rate that is not positive.

    Source: Uesato et al., ICML 2018, "Adversarial risk and the dangers of evaluating against weak attacks", with the
    numbers of CleverHans (128 samples are 64 pairs). Deviation: neighbours are cut to [0, 1]; any norm.

    >>> from protoat.threats import Linf
    >>> SPSA(Linf("8/255")).parameters()["pairs"]
    64
    """

    def __init__(
        self,
        threat: ThreatModel,
        *,
        steps: int = 100,
        pairs: int = 64,
        delta: float = 0.01,
        learning_rate: float = 0.01,
        bn: BatchNormMode = "eval",
        seed: int = 0,
    ) -> None:
        super().__init__(threat, bn=bn, seed=seed)
        check_whole(steps=steps, pairs=pairs)
        check_number("(0, 1]", delta=delta)
        check_number("(0, inf)", learning_rate=learning_rate)
        self.steps = steps
        self.pairs = pairs
        self.delta = delta
        self.learning_rate = learning_rate

    @property
    def follows_gradients(self) -> bool:
        return False

    def run(self, problem: Problem) -> Tensor:
        return worst_case(problem, self.threat.geometry, [lambda part, _: self._search(part)])

    @torch.no_grad()
    def _search(self, problem: Problem) -> Tensor:
        result = problem.x.clone()
        at = Adam(result.clone())
        for step in range(1, self.steps + 1):
            at.descend(-self._gradient(problem, at.w), self.learning_rate, step)
            at.w = self.threat.geometry.project(at.w, problem.x, problem.eps)
            result[at.rows] = at.w
            robust = ~(problem.lead(problem.model(at.w)) > 0)
            at.keep(robust)
            problem = select(problem, robust)
            if not len(at.rows):
                break
        return result

    def _gradient(self, problem: Problem, x: Tensor) -> Tensor:
        """An estimate of the gradient of the lead."""
        total = torch.zeros_like(x)
        for _ in range(self.pairs):
            signs = noise_like(x, "uniform", problem.generator).sign()
            above, below = (
                problem.lead(problem.model((x + shift * signs).clamp(0, 1))) for shift in (self.delta, -self.delta)
            )
            total += leading(above - below, x) * signs
        return total / (2 * self.delta * self.pairs)
