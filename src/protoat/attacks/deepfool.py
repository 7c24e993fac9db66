"""DeepFool: repeated steps across the nearest boundary of the linearised model."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from protoat.arguments import check_number, check_whole
from protoat.attacks.active import among, is_adversarial
from protoat.attacks.minimal import MinimalNormAttack, nearest_boundary
from protoat.attacks.mode import BatchNormMode
from protoat.attacks.problem import Problem
from protoat.attacks.targets import ranked_wrong_classes
from protoat.functional.batch import leading
from protoat.threats import ThreatModel


class DeepFool(MinimalNormAttack):
    """Steps across the nearest boundary of the linearised model until the label is left.

    Args:
        threat: norm and radius.
        steps: most steps for an image.
        overshoot: the sum of all steps is stretched by ``1 + overshoot``.
        candidates: wrong classes looked at, by falling clean logit; all of them where the model has fewer.
        bn: batch norm while attacking.

    Raises:
        ValueError: fewer than one step or candidate.

    Source: Moosavi-Dezfooli et al., CVPR 2016, Alg. 2 and sec. 3.3. Deviation: it leaves the true label, where the
    original leaves the predicted one, and pixels stay in [0, 1]. Under L1, which the paper does not treat, a step moves
    one pixel, the steepest that is not at its end.

    >>> from protoat.threats import L2
    >>> model, x, y = torch.nn.Flatten(), torch.tensor([[[[0.6, 0.2]]]]), torch.tensor([0])
    >>> DeepFool(L2(1)).closest(model, x, y).distance  # the boundary is 0.4 / sqrt(2) = 0.2828 away
    tensor([0.2886])
    """

    can_target: ClassVar[bool] = False

    def __init__(
        self,
        threat: ThreatModel,
        *,
        steps: int = 50,
        overshoot: float = 0.02,
        candidates: int = 9,
        bn: BatchNormMode = "eval",
    ) -> None:
        super().__init__(threat, bn=bn)
        check_whole(steps=steps, candidates=candidates)
        check_number("[0, inf)", overshoot=overshoot)
        self.steps = steps
        self.overshoot = overshoot
        self.candidates = candidates

    def run(self, problem: Problem) -> Tensor:
        result = problem.x.clone()
        rows = torch.arange(len(result), device=result.device)
        x_adv, total, classes = problem.x, torch.zeros_like(problem.x), None
        for _ in range(self.steps):
            x_adv = x_adv.detach().requires_grad_()
            logits = problem.model(x_adv).logits.to(x_adv.dtype)
            if classes is None:
                classes = ranked_wrong_classes(logits.detach(), problem.y)[:, : self.candidates]
            lead, slope = nearest_boundary(logits, x_adv, problem.y, classes, self.norm)
            total = total + self._step(x_adv.detach(), lead, slope)
            stay = ~is_adversarial(problem, logits)
            problem, rows, total, classes = among(stay, problem, rows, total, classes)
            x_adv = (problem.x + (1 + self.overshoot) * total).clamp(0, 1)
            result[rows] = x_adv
            if not len(rows):
                break
        return result

    def _step(self, x_adv: Tensor, lead: Tensor, slope: Tensor) -> Tensor:
        """Shortest way across the plane ``lead + slope . d = 0``."""
        direction = self.norm.steepest(slope, x_adv)
        rise = (slope * direction).flatten(1).sum(1)  # the dual norm, where no pixel is left out
        return leading(lead.abs() / rise.clamp_min(1e-12) + 1e-4, slope) * direction
