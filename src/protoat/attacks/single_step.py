"""One-gradient attacks with a random start: R+FGSM and FFGSM."""

from __future__ import annotations

from torch import Tensor

from protoat.arguments import check_callable
from protoat.attacks.base import Attack
from protoat.attacks.gradient import PGD, input_gradient
from protoat.attacks.mode import BatchNormMode
from protoat.attacks.problem import AttackLoss, Problem
from protoat.errors import UserError
from protoat.functional.batch import noise_like
from protoat.functional.losses import cross_entropy
from protoat.pixels import Pixels
from protoat.threats import ThreatModel, check_threat


class FFGSM(PGD):
    """The attack inside fast adversarial training: a uniform start and one step of 1.25 eps, projected.

    The start is not cut to [0, 1], only the result is: so the one gradient may be taken outside the range, and a pixel
    that is black or white need not end at a face of the ball. Training on it resists for that reason.

    Args:
        threat: norm and radius.
        step_size: length of the step in pixels; default ``1.25 * eps``.
        loss: per-example loss to raise.
        bn: batch norm while attacking.
        seed: repeats a call when no generator is passed.

    Source: Wong, Rice & Kolter, ICLR 2020, the authors' code for MNIST. Their code for CIFAR cuts the start to [0, 1],
    as does the attack of this name in torchattacks.

    >>> from protoat.threats import Linf
    >>> FFGSM(Linf("8/255")).step_size * 255
    10.0
    """

    def __init__(
        self,
        threat: ThreatModel,
        *,
        step_size: Pixels | None = None,
        loss: AttackLoss = cross_entropy,
        bn: BatchNormMode = "eval",
        seed: int = 0,
    ) -> None:
        check_threat(threat, type(self))
        length = 1.25 * threat.eps if step_size is None else step_size
        super().__init__(threat, steps=1, step_size=length, loss=loss, bn=bn, seed=seed)

    def start(self, problem: Problem) -> Tensor:
        return self.threat.geometry.point_of_ball(problem.x, problem.eps, problem.generator)


class RFGSM(Attack):
    """R+FGSM: a random step of length alpha, then one gradient step of length eps - alpha.

    Args:
        threat: norm and radius.
        alpha: length of the random step in pixels, within (0, eps); default ``eps / 2``.
        loss: per-example loss to raise; lowered at the targets when targeted.
        bn: batch norm while attacking.
        seed: repeats a call when no generator is passed.

    Raises:
        ValueError: `alpha` outside (0, eps).

    Source: Tramèr et al., ICLR 2018, whose code cuts the start to [0, 1] too. Deviation: under L2 the random step has a
    uniform direction, under L1 few random pixels, its own sign form being defined for L-inf only.

    >>> from protoat.threats import Linf
    >>> RFGSM(Linf(0.3)).alpha
    0.15
    """

    def __init__(
        self,
        threat: ThreatModel,
        *,
        alpha: Pixels | None = None,
        loss: AttackLoss = cross_entropy,
        bn: BatchNormMode = "eval",
        seed: int = 0,
    ) -> None:
        super().__init__(threat, bn=bn, seed=seed)
        self.alpha = threat.eps / 2 if alpha is None else float(Pixels(alpha))
        if not 0 < self.alpha < threat.eps:
            raise UserError(f"alpha={self.alpha:g} is outside (0, eps={threat.eps:g})")
        check_callable(loss=loss)
        self.loss = loss

    @property
    def gradient_steps(self) -> int:
        return 1

    def run(self, problem: Problem) -> Tensor:
        norm, scale = self.threat.geometry, problem.eps / self.threat.eps
        noise = noise_like(problem.x, "normal", problem.generator)
        start = (problem.x + norm.step(noise, self.alpha * scale, problem.x)).clamp(0, 1)
        labels, sign = problem.goal
        gradient, _, _ = input_gradient(problem.model, start, labels, self.loss)
        step = norm.step(sign * gradient, (self.threat.eps - self.alpha) * scale, start)
        return norm.project(start + step, problem.x, problem.eps)
