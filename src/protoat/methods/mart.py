"""MART: adversarial training that minds the images the model gets wrong even when clean."""

from __future__ import annotations

from torch import Tensor, nn

from protoat.arguments import check_number
from protoat.attacks import BatchNormMode
from protoat.attacks.kl import TPGD
from protoat.functional.consistency import boosted_cross_entropy, misclassification_kl
from protoat.functional.losses import cross_entropy
from protoat.methods.base import AdversarialTraining, Examples, clean_and_adversarial, clean_of
from protoat.pixels import Pixels
from protoat.threats import ThreatModel
from protoat.types import Forwards


class MART(AdversarialTraining):
    """Boosted cross-entropy on adversarial images + `beta` x divergence, weighted by the clean prediction's error.

    One step costs ``2 * steps`` passes for the attack, and two forwards and two backwards for the weights.

    Args:
        threat: norm and radius.
        beta: weight of the divergence (5 in the authors' training scripts, 6 as default of their function).
        steps: gradient steps of the attack, which raises cross-entropy (authors: 10).
        step_size: length of a step in pixels; default ``eps / 4`` (authors: 0.007 at 0.031).
        bn: batch norm while attacking: ``eval`` uses the running statistics, ``train`` the batch's, moving the running
            ones, and ``train_frozen`` the batch's, moving nothing.
        ramp_epochs: epochs over which radius and step grow from 0.

    Raises:
        ValueError: a negative `beta`.

    Source: Wang et al., ICLR 2020, Eq. 8-10; gradients flow into every factor. The authors train it with learning rate
    0.01 and weight decay 3.5e-3, on raw pixels (no normalisation in the model).

    >>> from protoat.threats import Linf
    >>> MART(Linf("8/255")).beta
    5.0
    """

    def __init__(
        self,
        threat: ThreatModel,
        *,
        beta: float = 5.0,
        steps: int = 10,
        step_size: Pixels | None = None,
        bn: BatchNormMode = "eval",
        ramp_epochs: float = 0.0,
    ) -> None:
        check_number("[0, inf)", "5 is usual, 0 leaves the divergence out", beta=beta)
        attack = TPGD(threat, steps=steps, step_size=step_size, loss=cross_entropy, bn=bn)
        super().__init__(attack, ramp_epochs=ramp_epochs)
        self.beta = beta

    def forward(self, model: nn.Module, examples: Examples) -> Forwards:
        return clean_and_adversarial(model, examples)

    def losses(self, forwards: Forwards, y: Tensor) -> Tensor:
        adv = forwards.adv.logits
        consistency = misclassification_kl(clean_of(forwards, "MART").logits, adv, y)
        return boosted_cross_entropy(adv, y, self.label_smoothing) + self.beta * consistency
