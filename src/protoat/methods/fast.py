"""Fast adversarial training, with the guard against catastrophic overfitting."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from protoat.arguments import check_flag, check_number
from protoat.attacks import FFGSM, PGD, BatchNormMode
from protoat.functional.distributed import mean_over_processes
from protoat.methods.base import AdversarialTraining, Examples
from protoat.pixels import Pixels
from protoat.threats import ThreatModel, check_threat


class FastAT(AdversarialTraining):
    """One gradient step from a random start: the price of two passes for each update.

    At the end of each epoch the guard attacks the first batch of that epoch with PGD-5; accuracy that fell by more
    than `guard_drop` since the epoch before, at the same radius, is catastrophic overfitting: training stops, the state
    before the epoch is kept. While the radius still grows, accuracy falls for that reason and nothing is concluded.

    Args:
        threat: norm and radius.
        step_size: length of the step in pixels; default ``1.25 * eps``, as in the authors' code. The result is
            projected, so it may exceed eps.
        random_start: begin inside the ball (authors: true), not cut to [0, 1]. From the image itself, or
            from a start that is cut, training collapses sooner, above all where many pixels are black or white.
        bn: batch norm while attacking: ``eval`` uses the running statistics, ``train`` the batch's, moving the running
            ones, and ``train_frozen`` the batch's, moving nothing. The authors' code has ``train``.
        guard: watch for catastrophic overfitting after each epoch, at the price of PGD-5 on one batch.
        guard_drop: fall of PGD-5 accuracy within an epoch, as a fraction, that stops the run (authors: 0.2).
        ramp_epochs: epochs over which the radius grows from 0.

    Raises:
        ValueError: a `guard_drop` outside (0, 1), or a step that is not positive.

    Source: Wong, Rice & Kolter, ICLR 2020. Deviations: batch norm in eval mode while attacking and in the guard; the
    paper's text says 1.6 eps and its section 4.2 says 8/255, the authors' code says 10/255 = 1.25 eps;
    the start is not cut to [0, 1], as in their code for MNIST, where that decides whether training collapses; their
    code for CIFAR cuts it.

    >>> from protoat.threats import Linf
    >>> round(FastAT(Linf("8/255")).attack.step_size * 255, 6)
    10.0
    """

    memory: ClassVar[tuple[str, ...]] = ("watched_x", "watched_y")
    watched_x: Tensor | None
    watched_y: Tensor | None
    previous: Tensor

    def __init__(
        self,
        threat: ThreatModel,
        *,
        step_size: Pixels | None = None,
        random_start: bool = True,
        bn: BatchNormMode = "eval",
        guard: bool = True,
        guard_drop: float = 0.2,
        ramp_epochs: float = 0.0,
    ) -> None:
        check_threat(threat, type(self))
        attack: PGD = FFGSM(threat, step_size=step_size, bn=bn)
        if not random_start:
            attack = PGD(threat, steps=1, step_size=attack.step_size, random_start=False, bn=bn)
        super().__init__(attack, ramp_epochs=ramp_epochs)
        check_flag(guard=guard, random_start=random_start)
        check_number("(0, 1)", "0.2 stops at a fall of 20 points", guard_drop=guard_drop)
        self.guard = PGD(threat, steps=5, step_size=threat.eps / 4) if guard else None
        self.guard_drop = guard_drop
        self.register_buffer("previous", torch.zeros(2))  # accuracy under the guard's attack, and at which radius

    def examples(self, model: nn.Module, x: Tensor, y: Tensor) -> Examples:
        if self.guard is not None and self.watched_x is None:
            self.watched_x, self.watched_y = x.detach().clone(), y.clone()
        return super().examples(model, x, y)

    @property
    def may_stop(self) -> bool:
        return self.guard is not None

    def end_epoch(self, model: nn.Module) -> str | None:
        x, y = self.watched_x, self.watched_y
        if self.guard is None or x is None or y is None:
            return None
        self.watched_x = self.watched_y = None
        correct = self.guard(model, x, y, eps=self.eps).correct
        present = torch.stack([mean_over_processes(correct.float().mean()).cpu(), torch.tensor(self.eps)])
        (previous, at), (accuracy, eps) = self.previous.tolist(), present.tolist()
        self.previous.copy_(present)
        if at != eps or previous - accuracy <= self.guard_drop:
            return None
        return (
            f"catastrophic overfitting: PGD-5 accuracy on a training batch fell from {previous:.1%} to {accuracy:.1%} "
            "in one epoch; a smaller step_size or fewer epochs avoid it"
        )
