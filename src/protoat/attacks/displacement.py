"""An attack on the embedding: it drives it away from that of the clean image."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from protoat.arguments import check_number, check_whole
from protoat.attacks.active import worst_case
from protoat.attacks.apgd import climb
from protoat.attacks.base import Attack
from protoat.attacks.mode import BatchNormMode
from protoat.attacks.problem import Problem
from protoat.functional.precision import at_least_float32
from protoat.threats import ThreatModel
from protoat.types import Output


class EmbeddingDisplacement(Attack):
    """Drives the embedding as far as it can from that of the clean image, with the steps of APGD.

    A model that returns logits only is displaced in these.

    Args:
        threat: norm and radius.
        steps: gradient steps for each restart.
        restarts: independent runs, each on the images that are still robust.
        rho: as in `APGD`.
        bn: batch norm while attacking.
        seed: repeats a call when no generator is passed.

    Raises:
        ValueError: fewer than one step or restart.

    Source: feature-space attacks, Sabour et al., ICLR 2016, without a guide image.

    >>> from protoat.threats import Linf
    >>> EmbeddingDisplacement(Linf("8/255"), steps=50).parameters()["steps"]
    50
    """

    can_target: ClassVar[bool] = False

    def __init__(
        self,
        threat: ThreatModel,
        *,
        steps: int = 100,
        restarts: int = 1,
        rho: float = 0.75,
        bn: BatchNormMode = "eval",
        seed: int = 0,
    ) -> None:
        super().__init__(threat, bn=bn, seed=seed)
        check_whole(steps=steps, restarts=restarts)
        check_number("[0, 1]", rho=rho)
        self.steps = steps
        self.restarts = restarts
        self.rho = rho

    def run(self, problem: Problem) -> Tensor:
        with torch.no_grad():
            clean = _features(problem.model(problem.x))

        def score(output: Output, _: Tensor, clean: Tensor) -> Tensor:
            return (_features(output) - clean).square().sum(1)

        def once(part: Problem, rows: Tensor) -> Tensor:
            return climb(part, clean[rows], score, norm=self.threat.geometry, steps=self.steps, rho=self.rho)

        return worst_case(problem, self.threat.geometry, [once] * self.restarts)


def _features(output: Output) -> Tensor:
    return at_least_float32(output.embedding if output.embedding.shape[1] else output.logits).flatten(1)
