"""FGSM-PGI: one step from the perturbation of an epoch before, and outputs that must not jump on the way."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protoat.arguments import check_choice, check_number
from protoat.attacks import PGD, BatchNormMode
from protoat.attacks.gradient import input_gradient, step_length
from protoat.data import Origin
from protoat.functional.batch import noise_like, per_example
from protoat.functional.forward import output_of
from protoat.functional.precision import at_least_float32
from protoat.methods.base import Examples
from protoat.methods.image_memory import ImageMemory
from protoat.methods.per_image import PerImage
from protoat.pixels import Pixels
from protoat.threats import ThreatModel, check_threat
from protoat.types import Forwards

Prior = Literal["momentum", "epoch", "batch"]


class FGSMPGI(PerImage):
    """One step from a prior, cross-entropy there + `consistency` x squared difference of the outputs at both ends.

    The prior is what one step found for the same image in earlier epochs. It costs the attack no further pass; the
    weights see two forwards and two backwards, of the prior and of the result.

    Of each image the perturbation is kept (float16) and with the momentum also that (bfloat16): 614 MB for the 50,000
    images of CIFAR-10, half as much with ``prior="epoch"``, in memory and in each checkpoint. Kept perturbations follow
    random crops and flips.

    Args:
        threat: norm and radius.
        prior: where the step begins: ``"momentum"``, the perturbation moved along the gradients of all earlier epochs
            (FGSM-MEP); ``"epoch"``, the one of the epoch before (FGSM-EP); ``"batch"``, the one that the batch before
            had at this place (FGSM-BP), for which batches need not say which images they hold.
        consistency: weight of the mean squared difference of logits (authors: 10).
        decay: share of the momentum that lives on to the next epoch (authors: 0.3).
        step_size: length of the step in pixels; default eps.
        reset_epochs: epochs after which every prior is drawn anew, at the faces of the ball (authors: 40); None never.
        bn: batch norm while attacking: ``eval`` uses the running statistics, ``train`` the batch's, moving the running
            ones, and ``train_frozen`` the batch's, moving nothing. The authors' code has ``train``.
        ramp_epochs: epochs over which radius and step grow from 0.

    Raises:
        ValueError: an unknown prior, negative `consistency` or `decay`, or a step that is not positive.

    Source: Jia et al., ECCV 2022, with their code for FGSM-MEP. Deviations: batch norm in eval mode while attacking;
    gradients are divided by each image's mean magnitude before they are summed up, as the paper writes it for one
    image, where the code divides by the norm of the whole batch; priors follow crops and flips, which the code does not
    undo; they are rounded to half precision; the prior has a forward of its own, where the code reuses that of the
    attack, so with ``bn="train"`` running statistics count it twice; priors drawn anew may lie outside [0, 1], as in
    the code; the attack raises plain cross-entropy, also where training smooths labels
    (the code puts 0.6 on the label: ``label_smoothing`` 0.444 of ten classes).

    >>> from protoat.threats import Linf
    >>> FGSMPGI(Linf("8/255")).prior
    'momentum'
    """

    def __init__(
        self,
        threat: ThreatModel,
        *,
        prior: Prior = "momentum",
        consistency: float = 10.0,
        decay: float = 0.3,
        step_size: Pixels | None = None,
        reset_epochs: int | None = 40,
        bn: BatchNormMode = "eval",
        ramp_epochs: float = 0.0,
    ) -> None:
        check_threat(threat, type(self))
        check_choice(Prior, prior=prior)
        check_number("[0, inf)", consistency=consistency, decay=decay)
        types = {"perturbation": torch.float16} | ({"momentum": torch.bfloat16} if prior == "momentum" else {})
        super().__init__(threat, ImageMemory(**types), reset_epochs=reset_epochs, ramp_epochs=ramp_epochs)
        self.prior = prior
        self.consistency = consistency
        self.decay = decay
        length = step_length(step_size, threat.eps)
        self.attack = PGD(threat, steps=1, step_size=length, random_start=False, bn=bn)

    @property
    def per_image(self) -> bool:
        return self.prior != "batch"

    def origin(self, x: Tensor) -> Origin:
        return super().origin(x) if self.per_image else Origin(torch.arange(len(x)))

    def examples(self, model: nn.Module, x: Tensor, y: Tensor) -> Examples:
        origin, generator, norm = self.origin(x), self.generator(x), self.threat.geometry
        drawn = norm.step(noise_like(x, "uniform", generator), self.eps)
        kept = self.kept.read(origin, x, perturbation=drawn)
        start = x + norm.into_ball(kept["perturbation"], self.eps)
        inside = start.clamp(0, 1)
        with self.attack.posed(model, x, y, targets=None, eps=self.eps, generator=generator) as problem:
            gradient, _, _ = input_gradient(problem.model, start, problem.y, self.attack.loss)
        step = self.attack.step_size * (self.eps / self.threat.eps)
        x_adv = norm.project(start + norm.step(gradient, step, inside), x, self.eps)
        if self.prior == "momentum":
            size = gradient.flatten(1).abs().mean(1).clamp_min(torch.finfo(torch.float32).tiny)
            momentum = self.decay * kept["momentum"] + gradient / per_example(size, gradient)
            following = norm.project(start + norm.step(momentum, step, inside), x, self.eps)
            self.kept.write(origin, perturbation=following - x, momentum=momentum)
        else:
            self.kept.write(origin, perturbation=x_adv - x)
        return Examples(x, x_adv, y, (Examples(x, start, y),))

    def forward(self, model: nn.Module, examples: Examples) -> Forwards:
        (before,) = examples.more
        start = Forwards(before.x_adv, output_of(model, before.x_adv))
        return Forwards(examples.x_adv, output_of(model, examples.x_adv), more=((start, before.y),))

    def loss(self, forwards: Forwards, y: Tensor) -> Tensor:
        ((start, _),) = forwards.more
        apart = F.mse_loss(at_least_float32(forwards.adv.logits), at_least_float32(start.adv.logits))
        return self.cross_entropy(forwards, y) + self.consistency * apart

    def losses(self, forwards: Forwards, y: Tensor) -> Tensor:
        ((start, _),) = forwards.more
        apart = at_least_float32(forwards.adv.logits) - at_least_float32(start.adv.logits)
        return super().losses(forwards, y) + self.consistency * apart.square().mean(1)
