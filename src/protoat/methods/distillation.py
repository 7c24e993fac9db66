"""Defensive distillation, which hides gradients and makes nothing robust."""

from __future__ import annotations

import copy
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protoat.arguments import check_number
from protoat.functional.distributed import mean_over_processes, unwrap_model
from protoat.functional.forward import output_of
from protoat.functional.precision import at_least_float32
from protoat.functional.preserve import preserve_modes
from protoat.methods.base import Examples, OneStep
from protoat.spelling import argument, setting
from protoat.threats import ThreatModel
from protoat.types import Forwards, Output


class Distillation(OneStep):
    """Trains a teacher on labels, then the model on the teacher's predictions, both at a high temperature.

    The model is deployed at temperature 1, where its logits are so large that cross-entropy has no gradient left in
    float32: PGD then finds little, while attacks on the margin, or without gradients, find what they find of a model
    that was never defended. It is here as the textbook case of masked gradients: look at it with `protoat.audit`.

    The teacher is a copy of the model, which begins with the same weights, learns in the first epochs in the model's
    place, and gives predictions in eval mode from then on. It is a part of checkpoints, and of no weights file.

    Args:
        threat: accepted so that every method is built alike; training meets no adversary.
        temperature: what divides the logits of both (authors: 20 on MNIST).
        teacher_epochs: epochs of the teacher, before those of the model; None is half of the run. In a loop without
            `Objective.epochs` both learn at once.
        ramp_epochs: without effect, since training meets no adversary.

    Raises:
        ValueError: a `temperature` below 1, or `teacher_epochs` that are not positive.

    Source: Papernot et al., IEEE S&P 2016; broken by Carlini & Wagner, IEEE S&P 2017.

    >>> from protoat.threats import Linf
    >>> Distillation(Linf(0.3)).temperature
    20.0
    """

    def __init__(
        self,
        threat: ThreatModel,
        *,
        temperature: float = 20.0,
        teacher_epochs: float | None = None,
        ramp_epochs: float = 0.0,
    ) -> None:
        super().__init__(threat, ramp_epochs=ramp_epochs)
        check_number("[1, inf)", "20 is usual; 1 is plain distillation", temperature=temperature)
        if teacher_epochs is not None:
            check_number("(0, inf)", "None is half of the run", teacher_epochs=teacher_epochs)
        self.temperature = float(temperature)
        self.teacher_epochs = teacher_epochs
        self.teacher: nn.Module | None = None

    def unreached(self, epochs: int) -> list[str]:
        if self.teacher_epochs is None or self.teacher_epochs < epochs:
            return []
        given = setting(teacher_epochs=self.teacher_epochs)
        last = f"write {argument('teacher_epochs')} of at most {epochs - 1}"
        return [f"the model never learns from its teacher ({given}); {last}"]

    @property
    def _teaches(self) -> bool:
        """Whether the model learns from the teacher by now."""
        first = self.teacher_epochs if self.teacher_epochs is not None else (self._epochs or 0.0) / 2
        return self._epoch >= first

    @property
    def _learns(self) -> bool:
        """Whether the teacher still learns."""
        return not self._teaches or self._epoch == float("inf")

    def prepare(self, model: nn.Module) -> None:
        if self.teacher is None:
            self.teacher = copy.deepcopy(unwrap_model(model)).requires_grad_()

    def learner(self, model: nn.Module) -> nn.Module:
        return model if self._teaches or self.teacher is None else self.teacher

    def examples(self, model: nn.Module, x: Tensor, y: Tensor) -> Examples:
        return Examples(x, x, y)

    def forward(self, model: nn.Module, examples: Examples) -> Forwards:
        self.prepare(model)
        assert self.teacher is not None
        with preserve_modes(self.teacher), torch.set_grad_enabled(self._learns):
            self.teacher.train(self._learns)
            lesson = output_of(self.teacher, examples.x)
        if not self._teaches:
            return Forwards(examples.x_adv, lesson, lesson)
        own = output_of(model, examples.x_adv)
        return Forwards(examples.x_adv, own, own, ((Forwards(examples.x, lesson), examples.y),))

    def loss(self, forwards: Forwards, y: Tensor) -> Tensor:
        return self._loss(forwards, y, "mean")

    def losses(self, forwards: Forwards, y: Tensor) -> Tensor:
        return self._loss(forwards, y, "none")

    def _loss(self, forwards: Forwards, y: Tensor, reduction: Literal["mean", "none"]) -> Tensor:
        if not forwards.more:
            return self._taught(self._cooled(forwards.adv), y, reduction)
        ((teacher, _),) = forwards.more
        lesson = self._cooled(teacher.adv)
        loss = F.cross_entropy(self._cooled(forwards.adv), lesson.detach().softmax(1), reduction=reduction)
        return loss + self._taught(lesson, y, reduction) if self._learns else loss

    def _taught(self, logits: Tensor, y: Tensor, reduction: Literal["mean", "none"]) -> Tensor:
        """What the teacher minimises."""
        return F.cross_entropy(logits, y, reduction=reduction, label_smoothing=self.label_smoothing)

    def _cooled(self, output: Output) -> Tensor:
        return at_least_float32(output.logits) / self.temperature

    @property
    def may_stop(self) -> bool:
        return False

    def end_epoch(self, model: nn.Module) -> str | None:
        for buffer in [] if self.teacher is None else self.teacher.buffers():
            if buffer.is_floating_point():
                buffer.copy_(mean_over_processes(buffer))
        return None
