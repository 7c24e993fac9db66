"""Adversarial training with PGD and with FGSM."""

from __future__ import annotations

from protoat.attacks import FGSM, PGD, AttackLoss, BatchNormMode
from protoat.functional.losses import cross_entropy
from protoat.methods.base import AdversarialTraining
from protoat.pixels import Pixels
from protoat.threats import ThreatModel


class PGDAT(AdversarialTraining):
    """PGD adversarial training: cross-entropy on PGD examples only.

    Args:
        threat: norm and radius.
        steps: gradient steps of the attack (7 in the paper).
        step_size: length of a step in pixels; default ``2.5 * eps / steps``.
        random_start: begin inside the ball, not at the image.
        loss: what the attack raises, a function of output and labels (cross-entropy in the paper).
        bn: batch norm while attacking: ``eval`` uses the running statistics, ``train`` the batch's, moving the running
            ones, and ``train_frozen`` the batch's, moving nothing. Madry's code has ``train``.
        ramp_epochs: epochs over which radius and step grow from 0.

    Source: Madry et al., ICLR 2018; the paper's section 3.1.3. Deviation: batch norm is in eval mode while attacking,
    which "Bag of Tricks for AT" finds as robust and which costs less.

    >>> from protoat.threats import Linf
    >>> PGDAT(Linf("8/255"), steps=7, step_size="2/255").attack.steps
    7
    """

    def __init__(
        self,
        threat: ThreatModel,
        *,
        steps: int = 7,
        step_size: Pixels | None = None,
        random_start: bool = True,
        loss: AttackLoss = cross_entropy,
        bn: BatchNormMode = "eval",
        ramp_epochs: float = 0.0,
    ) -> None:
        attack = PGD(threat, steps=steps, step_size=step_size, random_start=random_start, loss=loss, bn=bn)
        super().__init__(attack, ramp_epochs=ramp_epochs)


class FGSMAT(AdversarialTraining):
    """FGSM adversarial training: one full step from the image itself. Known to collapse; `FastAT` is the sound form.

    Args:
        threat: norm and radius.
        bn: batch norm while attacking: ``eval`` uses the running statistics, ``train`` the batch's, moving the running
            ones, and ``train_frozen`` the batch's, moving nothing.
        ramp_epochs: epochs over which the radius grows from 0.

    Source: Goodfellow et al., ICLR 2015. Deviation: adversarial examples only, without the clean half.

    >>> from protoat.threats import Linf
    >>> FGSMAT(Linf(0.3)).attack.random_start
    False
    """

    def __init__(self, threat: ThreatModel, *, bn: BatchNormMode = "eval", ramp_epochs: float = 0.0) -> None:
        super().__init__(FGSM(threat, bn=bn), ramp_epochs=ramp_epochs)
