"""Relatives of PGD: BIM, MIM, and Carlini & Wagner's margin climbed by PGD."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from protoat.arguments import check_callable, check_number, check_whole
from protoat.attacks.base import Attack
from protoat.attacks.gradient import PGD, input_gradient, step_length
from protoat.attacks.mode import BatchNormMode
from protoat.attacks.problem import AttackLoss, Problem
from protoat.functional.batch import leading
from protoat.functional.losses import cross_entropy, margin
from protoat.functional.margins import capped_margin
from protoat.pixels import Pixels
from protoat.reprs import constructor_repr
from protoat.threats import ThreatModel
from protoat.types import Output


class BIM(PGD):
    """Basic iterative method (I-FGSM): PGD from the image itself.

    Args:
        threat: norm and radius.
        steps: gradient steps.
        step_size: length of a step in pixels; default ``2.5 * eps / steps``.
        loss: per-example loss to raise; lowered at the targets when targeted.
        bn: batch norm while attacking.

    Source: Kurakin et al., ICLR 2017 workshop (step 1/255 there).

    >>> from protoat.threats import Linf
    >>> BIM(Linf("8/255"), steps=7, step_size="2/255").random_start
    False
    """

    def __init__(
        self,
        threat: ThreatModel,
        *,
        steps: int = 10,
        step_size: Pixels | None = None,
        loss: AttackLoss = cross_entropy,
        bn: BatchNormMode = "eval",
    ) -> None:
        super().__init__(threat, steps=steps, step_size=step_size, random_start=False, loss=loss, bn=bn)


class MIM(Attack):
    """Momentum iterative method: steps along a running sum of gradients, each divided by its mean magnitude.

    Args:
        threat: norm and radius.
        steps: gradient steps.
        step_size: length of a step in pixels; default ``eps / steps``.
        decay: share of the running sum that is kept at each step.
        loss: per-example loss to raise; lowered at the targets when targeted.
        bn: batch norm while attacking.

    Raises:
        ValueError: fewer than one step, or a step that is not positive.

    Source: Dong et al., CVPR 2018, Alg. 1.

    >>> from protoat.threats import Linf
    >>> MIM(Linf(0.3)).parameters()["decay"]
    1.0
    """

    def __init__(
        self,
        threat: ThreatModel,
        *,
        steps: int = 10,
        step_size: Pixels | None = None,
        decay: float = 1.0,
        loss: AttackLoss = cross_entropy,
        bn: BatchNormMode = "eval",
    ) -> None:
        super().__init__(threat, bn=bn)
        check_whole(steps=steps)
        check_number("[0, inf)", decay=decay)
        self.steps = steps
        self.step_size = step_length(step_size, threat.eps / steps)
        self.decay = decay
        check_callable(loss=loss)
        self.loss = loss

    @property
    def gradient_steps(self) -> int:
        return self.steps

    def run(self, problem: Problem) -> Tensor:
        norm, step = self.threat.geometry, self.step_size * (problem.eps / self.threat.eps)
        labels, sign = problem.goal
        x_adv, momentum = problem.x, torch.zeros_like(problem.x)
        for _ in range(self.steps):
            gradient, _, _ = input_gradient(problem.model, x_adv, labels, self.loss)
            size = gradient.flatten(1).abs().mean(1).clamp_min(torch.finfo(torch.float32).tiny)
            momentum = self.decay * momentum + gradient / leading(size, gradient)
            x_adv = norm.project(x_adv + norm.step(sign * momentum, step, x_adv), problem.x, problem.eps)
        return x_adv


class CWPGD(Attack):
    """PGD on Carlini & Wagner's margin, the "CW" of adversarial-training papers; `CarliniWagnerL2` is a true one.

    Args:
        threat: norm and radius.
        kappa: the margin stops moving once the label is beaten (or the target leads) by this much.
        steps, step_size, random_start, restarts, bn, seed: as in `PGD`.

    Raises:
        ValueError: a negative `kappa`.

    Source: Carlini & Wagner 2017, f6; kappa = 50 from the Madry challenges.

    >>> from protoat.threats import Linf
    >>> CWPGD(Linf("8/255"), steps=100).parameters()["kappa"]
    50.0
    """

    def __init__(
        self,
        threat: ThreatModel,
        *,
        kappa: float = 50.0,
        steps: int = 10,
        step_size: Pixels | None = None,
        random_start: bool = True,
        restarts: int = 1,
        bn: BatchNormMode = "eval",
        seed: int = 0,
    ) -> None:
        super().__init__(threat, bn=bn, seed=seed)
        check_number("[0, inf)", kappa=kappa)
        self.kappa = float(kappa)
        build = partial(
            PGD,
            threat,
            steps=steps,
            step_size=step_size,
            random_start=random_start,
            restarts=restarts,
            bn=bn,
            seed=seed,
        )
        self._away = build(loss=partial(capped_margin, kappa=self.kappa))
        self._towards = build(loss=self._floored)

    def __repr__(self) -> str:
        return constructor_repr(self, self._away)

    def check(self, images: tuple[int, ...], output: Output) -> None:
        self._away.check(images, output)

    def _floored(self, output: Output, target: Tensor) -> Tensor:
        return margin(output, target).clamp_min(-self.kappa)

    def run(self, problem: Problem) -> Tensor:
        return (self._away if problem.targets is None else self._towards).run(problem)

    def parameters(self) -> dict[str, Any]:
        return self._away.parameters() | {
            "attack": "CWPGD",
            "loss": "protoat.functional.margins.capped_margin",
            "kappa": self.kappa,
        }
