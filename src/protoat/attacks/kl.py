"""PGD on the divergence from the clean prediction, which needs no labels: the attack inside TRADES."""

from __future__ import annotations

import torch
from torch import Tensor

from protoat.arguments import check_callable, check_whole
from protoat.attacks.base import Attack
from protoat.attacks.gradient import ascend, step_length
from protoat.attacks.mode import BatchNormMode
from protoat.attacks.problem import AttackLoss, Problem
from protoat.functional.batch import Radius, noise_like
from protoat.functional.consistency import kl_divergence
from protoat.pixels import Pixels
from protoat.threats import ThreatModel

_START = 0.001


class TPGD(Attack):
    """PGD from a point close to the image that raises ``KL(p(x) || p(x'))``; labels are not used.

    The divergence has no gradient at the image itself, so the run starts at ``x + 0.001 * N(0, 1)``.

    Args:
        threat: norm and radius.
        steps: gradient steps.
        step_size: length of a step in pixels; default ``eps / 4``, which is 2/255 for a radius of 8/255.
        loss: per-example loss to raise instead, from the same start (MART raises `cross_entropy`).
        bn: batch norm while attacking.
        seed: repeats a call when no generator is passed.

    Raises:
        ValueError: fewer than one step, or a step that is not positive.

    Source: Zhang et al., ICML 2019 (0.007 at eps 0.031, 10 steps); the name is torchattacks'. Deviations: the start is
    cut to [0, 1] and to the ball; the clean prediction, which does not change, is computed once.

    >>> from protoat.threats import Linf
    >>> attack = TPGD(Linf("8/255"))
    >>> round(attack.step_size * 255, 6), attack.can_target
    (2.0, False)
    """

    can_target = False

    def __init__(
        self,
        threat: ThreatModel,
        *,
        steps: int = 10,
        step_size: Pixels | None = None,
        loss: AttackLoss | None = None,
        bn: BatchNormMode = "eval",
        seed: int = 0,
    ) -> None:
        super().__init__(threat, bn=bn, seed=seed)
        check_whole(steps=steps)
        self.steps = steps
        self.step_size = step_length(step_size, threat.eps / 4)
        if loss is not None:
            check_callable(loss=loss)
        self.loss = loss

    @property
    def gradient_steps(self) -> int | None:
        """None for the divergence: at the start it is below what bfloat16 resolves, and its gradient is noise."""
        return None if self.loss is None else self.steps

    def run(self, problem: Problem) -> Tensor:
        norm, eps, x = self.threat.geometry, problem.eps, problem.x
        # A ramped or class-wise radius scales the step with it, as in PGD.
        step: Radius = self.step_size * (eps / self.threat.eps)
        loss = self.loss or _divergence_from_clean(problem)
        noise = noise_like(x, "normal", problem.generator)
        start = norm.project(x + _START * noise, x, eps)
        return ascend(problem, start, norm, [loss] * self.steps, lambda *_: step)


def _divergence_from_clean(problem: Problem) -> AttackLoss:
    with torch.no_grad():
        clean = problem.model(problem.x).logits
    return lambda output, y: kl_divergence(clean, output.logits)
