"""Targeted Auto-PGD towards the classes whose linearised boundaries are nearest."""

from __future__ import annotations

import torch
from torch import Tensor

from protoat.arguments import check_whole
from protoat.attacks.apgd import APGDT
from protoat.attacks.mode import BatchNormMode
from protoat.attacks.problem import Problem
from protoat.attacks.targets import ranked_wrong_classes
from protoat.functional.gradients import gradient_of
from protoat.functional.norms import Norm
from protoat.threats import ThreatModel


class MALT(APGDT):
    """Mesoscopic almost linearity targeting: `APGDT` whose targets are ranked by the distance of their boundaries.

    Args:
        threat: norm and radius.
        num_targets: wrong classes tried, nearest linearised boundary first; all where the model has fewer.
        candidates: classes of highest clean logit that are ranked; each costs a backward pass.
        steps: gradient steps for each target and restart.
        restarts: independent runs for each target.
        rho: as in `APGD`.
        bn: batch norm while attacking.
        seed: repeats a call when no generator is passed.

    Raises:
        ValueError: fewer than one step, restart, target or candidate.

    Source: Melamed et al., NeurIPS 2024, "MALT powers up adversarial attacks": logit differences at the clean image,
    each divided by the norm of its gradient. Deviation: that norm is the dual of the threat model's, which makes it the
    distance to the linearised boundary.

    >>> from protoat.threats import Linf
    >>> MALT(Linf("8/255"), num_targets=3).parameters()["candidates"]
    100
    """

    def __init__(
        self,
        threat: ThreatModel,
        *,
        num_targets: int = 9,
        candidates: int = 100,
        steps: int = 100,
        restarts: int = 1,
        rho: float = 0.75,
        bn: BatchNormMode = "eval",
        seed: int = 0,
    ) -> None:
        super().__init__(threat, num_targets=num_targets, steps=steps, restarts=restarts, rho=rho, bn=bn, seed=seed)
        check_whole(candidates=candidates)
        self.candidates = candidates

    def ranked(self, problem: Problem) -> Tensor:
        return nearest_classes(problem, self.threat.geometry, self.candidates)[:, : self.num_targets]


def nearest_classes(problem: Problem, norm: Norm, candidates: int) -> Tensor:
    """The wrong classes of highest logit, (B, candidates) or fewer, nearest linearised decision boundary first.

    Args:
        problem: images, labels and model.
        norm: of the distance.
        candidates: how many classes are looked at.
    """
    with torch.enable_grad():
        x = problem.x.detach().requires_grad_()
        logits = problem.model(x).logits
        classes = ranked_wrong_classes(logits.detach(), problem.y)[:, :candidates]
        if classes.shape[1] == 1:
            return classes
        behind = logits.gather(1, problem.y[:, None]) - logits.gather(1, classes)
        distances = [
            lead.detach() / norm.dual(gradient_of(lead.sum(), x, retain_graph=True)).clamp_min(1e-12)
            for lead in behind.unbind(1)
        ]
    return classes.gather(1, torch.stack(distances, 1).argsort(dim=1, stable=True))
