"""Class-wise calibrated fair adversarial training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from protoat.arguments import check_number
from protoat.attacks import PGD, Attack, BatchNormMode
from protoat.attacks.kl import TPGD
from protoat.errors import UserError
from protoat.functional.distributed import mean_over_processes
from protoat.functional.forward import predicted
from protoat.methods.base import AdversarialTraining, Examples, clean_and_adversarial, never_starts
from protoat.methods.trades import trades_loss
from protoat.pixels import Pixels
from protoat.spelling import argument
from protoat.threats import ThreatModel, check_threat
from protoat.types import Forwards


class CFA(AdversarialTraining):
    """Gives each class a radius, and in TRADES' form a weight, that follow how robust it was in the epoch before.

    With ``r_k`` the share of class k's training images that were classified right under attack in the previous epoch,
    the radius of class k is ``(eps_offset + r_k) * eps`` and its weight ``(beta_offset + r_k) * beta``: easy classes
    are attacked harder, hard ones more gently. The counts come from the forwards that training makes anyway.

    One step costs ``2 * steps`` passes for the attack and one forward and backward for the weights; in TRADES' form one
    pass and one forward and backward more. Fair weight averaging is `protoat.training.averaging.FAWA`.

    Args:
        threat: norm and radius before calibration.
        beta: None trains on adversarial examples only, as PGD-AT; a number takes TRADES' form, where an example's loss
            is ``(CE + b KL) / (1 + b)`` with the weight b of its class (6 for CIFAR).
        eps_offset: added to a class's share of right images to give its radius, in units of eps (the paper's lambda_1).
        beta_offset: the same for its weight, in units of beta (the paper's lambda_2).
        start_epoch: epochs before calibration sets in; until then every class has the full radius and `beta`
            (authors: 10).
        class_eps: radii to use as they are from the first epoch on, one for each class, in pixels.
        steps: gradient steps of the attack (authors: 10).
        step_size: length of a step in pixels at radius eps; default ``eps / 4`` (2/255 at 8/255).
        bn: batch norm while attacking: ``eval`` uses the running statistics, ``train`` the batch's, moving the running
            ones, and ``train_frozen`` the batch's, moving nothing.
        ramp_epochs: epochs over which all radii grow from 0.

    Raises:
        ValueError: a negative `beta`, `eps_offset`, `beta_offset` or `start_epoch`, a radius that is not positive, or,
            once the classes are known, another number of radii.

    Source: Wei et al., CVPR 2023. Deviations: the step is scaled with the class's radius; rates are shares of the
    images of each class, also where classes are not of equal size; batch norm is in eval mode while attacking in both
    forms; the authors' code forwards the clean images in training mode after each step, for its statistics, which moves
    batch norm once more, and pads images by reflection before the crop. With two classes only the ratio of two radii is
    left to calibrate.

    >>> from protoat.threats import Linf
    >>> CFA(Linf("8/255"), beta=6.0).start_epoch
    10.0
    """

    memory: ClassVar[tuple[str, ...]] = ("correct", "seen", "rates")
    correct: Tensor | None
    seen: Tensor | None
    rates: Tensor | None

    def __init__(
        self,
        threat: ThreatModel,
        *,
        beta: float | None = None,
        eps_offset: float = 0.5,
        beta_offset: float = 0.5,
        start_epoch: float = 10.0,
        class_eps: Sequence[Pixels] | None = None,
        steps: int = 10,
        step_size: Pixels | None = None,
        bn: BatchNormMode = "eval",
        ramp_epochs: float = 0.0,
    ) -> None:
        if beta is not None:
            check_number("[0, inf)", "6 is usual, None trains on adversarial examples only", beta=beta)
        check_number("[0, inf)", eps_offset=eps_offset, beta_offset=beta_offset, start_epoch=start_epoch)
        check_threat(threat, type(self))
        step = threat.eps / 4 if step_size is None else step_size
        attack: Attack = PGD(threat, steps=steps, step_size=step, bn=bn)
        if beta is not None:
            attack = TPGD(threat, steps=steps, step_size=step, bn=bn)
        super().__init__(attack, ramp_epochs=ramp_epochs)
        self.beta = beta
        self.eps_offset = eps_offset
        self.beta_offset = beta_offset
        self.start_epoch = start_epoch
        self.class_eps = None if class_eps is None else [ThreatModel(eps, threat.norm).eps for eps in class_eps]

    def check_classes(self, num_classes: int) -> None:
        if self.class_eps is not None and len(self.class_eps) != num_classes:
            raise UserError(
                f"{argument('class_eps')} has {len(self.class_eps)} radii for {num_classes} classes; give one for each"
            )

    def unreached(self, epochs: int) -> list[str]:
        # Without radii of one's own, what an epoch found serves from the next one on.
        begins = self.start_epoch < epochs or (self.class_eps is not None and self.beta is None)
        own = [] if begins else [never_starts("classes are never calibrated", self.start_epoch, epochs)]
        return super().unreached(epochs) + own

    def examples(self, model: nn.Module, x: Tensor, y: Tensor) -> Examples:
        eps = self._ramp * self._radii(y)
        return Examples(x, self.attack.craft(model, x, y, eps=eps, generator=self.generator(x)), y)

    def forward(self, model: nn.Module, examples: Examples) -> Forwards:
        forwards = super().forward(model, examples) if self.beta is None else clean_and_adversarial(model, examples)
        self.check_classes(forwards.adv.logits.shape[1])
        return forwards

    def loss(self, forwards: Forwards, y: Tensor) -> Tensor:
        return self.cross_entropy(forwards, y) if self.beta is None else self.losses(forwards, y).mean()

    def losses(self, forwards: Forwards, y: Tensor) -> Tensor:
        if self.beta is None:
            return super().losses(forwards, y)
        beta = self.beta * self._factor(y, self.beta_offset)
        return trades_loss(forwards, y, beta, self.label_smoothing) / (1 + beta)

    def observe(self, forwards: Forwards, y: Tensor) -> None:
        logits = forwards.adv.logits.detach()
        if self.correct is None or self.seen is None:
            self.correct, self.seen = logits.new_zeros(2, logits.shape[1], dtype=torch.float32)
        correct = (predicted(logits) == y).float()
        self.correct = self.correct.to(y.device).index_add(0, y, correct)
        self.seen = self.seen.to(y.device).index_add(0, y, torch.ones_like(correct))

    @property
    def may_stop(self) -> bool:
        return False

    def end_epoch(self, model: nn.Module) -> str | None:
        if self.correct is not None and self.seen is not None:
            correct, seen = mean_over_processes(torch.stack([self.correct, self.seen]))
            # A class without images keeps the plain radius.
            self.rates = torch.where(seen > 0, correct / seen.clamp_min(1e-12), 1 - self.eps_offset)
            self.correct, self.seen = torch.zeros_like(correct), torch.zeros_like(seen)
        return None

    @property
    def _ramp(self) -> float:
        return self.eps / self.threat.eps

    def _factor(self, y: Tensor, offset: float) -> Tensor:
        """Offset + rate of each example's class, (B,); ones before calibration."""
        if self.rates is None or self._epoch < self.start_epoch:
            return torch.ones(len(y), device=y.device)
        return offset + self.rates.to(y.device)[y]

    def _radii(self, y: Tensor) -> Tensor:
        """Radius of each example before the ramp, (B,)."""
        if self.class_eps is None:
            return self.threat.eps * self._factor(y, self.eps_offset)
        if int(y.max()) >= len(self.class_eps):
            self.check_classes(int(y.max()) + 1)
        return torch.tensor(self.class_eps, device=y.device)[y]
