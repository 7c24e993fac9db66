"""ATTA: adversarial training with perturbations that grow from epoch to epoch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from protoat.attacks import PGD, BatchNormMode
from protoat.attacks.gradient import input_gradient, step_length
from protoat.functional.batch import noise_like
from protoat.methods.base import Examples
from protoat.methods.image_memory import ImageMemory
from protoat.methods.per_image import PerImage
from protoat.pixels import Pixels
from protoat.threats import ThreatModel, check_threat

_START = 0.001


class ATTA(PerImage):
    """A few steps from where the last epoch left the image: what they find adds up over epochs.

    Of each image the perturbation is kept, in float16: 307 MB for the 50,000 images of CIFAR-10, in memory and in each
    checkpoint. It follows random crops and flips.

    Args:
        threat: norm and radius.
        steps: gradient steps in each epoch (authors: 1, 3 and 10; 40 for MNIST).
        step_size: length of a step in pixels; default ``eps / 2`` (authors: 0.015 at 0.031 for one step, 0.007 for
            more; 0.01 at 0.3 for MNIST).
        reset_epochs: epochs after which every image starts anew, close to itself (authors: 10; never on MNIST); None
            never.
        bn: batch norm while attacking: ``eval`` uses the running statistics, ``train`` the batch's, moving the running
            ones, and ``train_frozen`` the batch's, moving nothing.
        ramp_epochs: epochs over which radius and step grow from 0.

    Raises:
        ValueError: fewer than one step, or a step that is not positive.

    Source: Zheng et al., CVPR 2020, with their code for PGD training. Deviations: the black border that a crop brings
    in has no perturbation of its own from epoch to epoch; perturbations are rounded to half precision; the first reset
    comes after `reset_epochs` epochs, in their code one earlier.

    >>> from protoat.threats import Linf
    >>> round(ATTA(Linf("8/255")).attack.step_size * 255, 6)
    4.0
    """

    def __init__(
        self,
        threat: ThreatModel,
        *,
        steps: int = 1,
        step_size: Pixels | None = None,
        reset_epochs: int | None = 10,
        bn: BatchNormMode = "eval",
        ramp_epochs: float = 0.0,
    ) -> None:
        check_threat(threat, type(self))
        tables = ImageMemory(perturbation=torch.float16)
        super().__init__(threat, tables, reset_epochs=reset_epochs, ramp_epochs=ramp_epochs)
        length = step_length(step_size, threat.eps / 2)
        self.attack = PGD(threat, steps=steps, step_size=length, random_start=False, bn=bn)

    def examples(self, model: nn.Module, x: Tensor, y: Tensor) -> Examples:
        origin, generator, norm = self.origin(x), self.generator(x), self.threat.geometry
        delta = self.kept.read(origin, x, perturbation=_START * noise_like(x, "normal", generator))["perturbation"]
        step = self.attack.step_size * (self.eps / self.threat.eps)
        x_adv = norm.project(x + delta, x, self.eps)
        with self.attack.posed(model, x, y, targets=None, eps=self.eps, generator=generator) as problem:
            for _ in range(self.attack.steps):
                gradient, _, _ = input_gradient(problem.model, x_adv, problem.y, self.attack.loss)
                x_adv = norm.project(x_adv + norm.step(gradient, step, x_adv), x, self.eps)
        self.kept.write(origin, perturbation=x_adv - x)
        return Examples(x, x_adv, y)
