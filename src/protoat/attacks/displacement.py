"""An attack on the embedding: it drives it away from that of the clean image."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from protoat.attacks.apgd import Climbing
from protoat.attacks.problem import Problem
from protoat.functional.precision import at_least_float32
from protoat.types import Output


class EmbeddingDisplacement(Climbing):
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

    def run(self, problem: Problem) -> Tensor:
        with torch.no_grad():
            clean = _features(problem.model(problem.x))

        def score(output: Output, _: Tensor, clean: Tensor) -> Tensor:
            return (_features(output) - clean).square().sum(1)

        return self.climb_restarted(problem, clean, score)


def _features(output: Output) -> Tensor:
    return at_least_float32(output.embedding if output.embedding.shape[1] else output.logits).flatten(1)
