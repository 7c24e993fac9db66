"""N-FGSM: one step from strong noise, and no cut to the ball."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from protoat.arguments import check_flag, check_number
from protoat.attacks import PGD, BatchNormMode
from protoat.attacks.gradient import step_length
from protoat.attacks.problem import Problem
from protoat.methods.base import AdversarialTraining, Examples
from protoat.pixels import Pixels
from protoat.threats import ThreatModel, check_threat


class NFGSM(AdversarialTraining):
    """One full step from noise of twice the radius, which is kept: the images trained on lie outside the ball.

    Noise and step together reach ``noise * eps + step_size``, three radii by default. One step costs two passes for the
    attack.

    Args:
        threat: norm and radius.
        noise: radius of the uniform noise, in units of eps (authors: 2; 0 is FGSM).
        step_size: length of the step in pixels; default eps.
        clip_noise: clip the noisy images to [0, 1] before the step, as the authors do. Where most pixels are black or
            white and the radius is large, as on MNIST at 0.3, training with clipped noise may collapse.
        bn: batch norm while attacking: ``eval`` uses the running statistics, ``train`` the batch's, moving the running
            ones, and ``train_frozen`` the batch's, moving nothing. The authors' code has ``train``.
        ramp_epochs: epochs over which radius, noise and step grow from 0.

    Raises:
        ValueError: negative `noise`, a step that is not positive, or a `clip_noise` that is no bool.

    Source: de Jorge et al., NeurIPS 2022, with their code: noise and result are clipped to [0, 1], and to nothing else.
    Deviation: batch norm in eval mode while attacking.

    >>> from protoat.threats import Linf
    >>> NFGSM(Linf("8/255")).reach
    3.0
    """

    def __init__(
        self,
        threat: ThreatModel,
        *,
        noise: float = 2.0,
        step_size: Pixels | None = None,
        clip_noise: bool = True,
        bn: BatchNormMode = "eval",
        ramp_epochs: float = 0.0,
    ) -> None:
        check_threat(threat, type(self))
        check_number("[0, inf)", "2 is usual", noise=noise)
        check_flag(clip_noise=clip_noise)
        self.noise = noise
        self.step_size = step_length(step_size, threat.eps)
        self.reach = noise + self.step_size / threat.eps
        super().__init__(_StepFromNoise(threat, noise, self.reach, clip_noise, bn), ramp_epochs=ramp_epochs)

    def examples(self, model: nn.Module, x: Tensor, y: Tensor) -> Examples:
        eps = self.reach * self.eps
        return Examples(x, self.attack.craft(model, x, y, eps=eps, generator=self.generator(x)), y)


class _StepFromNoise(PGD):
    """One step from noise, in a ball of `reach` radii, of which the noise takes `noise`."""

    def __init__(self, threat: ThreatModel, noise: float, reach: float, clip: bool, bn: BatchNormMode) -> None:
        # PGD scales its step as the ball it is given: `reach` times as wide.
        super().__init__(threat, steps=1, step_size=threat.eps * (reach - noise) / reach, bn=bn)
        self.share = noise / reach
        self.reach = reach
        self.clip = clip

    def parameters(self) -> dict[str, Any]:
        return {**super().parameters(), "step_size": self.step_size * self.reach}  # as long as it is, at radius eps

    def start(self, problem: Problem) -> Tensor:
        noisy = self.threat.geometry.point_of_ball(problem.x, self.share * problem.eps, problem.generator)
        return noisy.clamp(0, 1) if self.clip else noisy
