"""TRADES: clean accuracy and stability of the prediction, traded against each other."""

from __future__ import annotations

from torch import Tensor, nn

from protoat.arguments import check_number
from protoat.attacks import BatchNormMode
from protoat.attacks.kl import TPGD
from protoat.functional.consistency import kl_divergence
from protoat.functional.losses import cross_entropy
from protoat.methods.base import AdversarialTraining, Examples, clean_and_adversarial, clean_of
from protoat.pixels import Pixels
from protoat.threats import ThreatModel
from protoat.types import Forwards


class TRADES(AdversarialTraining):
    """Cross-entropy on clean images + `beta` x divergence of the adversarial from the clean prediction.

    One step costs ``2 * steps + 1`` passes for the attack, which uses no labels, and two forwards and two backwards for
    the weights.

    Args:
        threat: norm and radius.
        beta: weight of the divergence (6 for CIFAR, 1 for MNIST).
        steps: gradient steps of the attack (10 for CIFAR, 40 for MNIST).
        step_size: length of a step in pixels; default ``eps / 4`` (authors: 0.007 at 0.031; 0.01 at 0.3 for MNIST).
        bn: batch norm while attacking: ``eval`` uses the running statistics, ``train`` the batch's, moving the running
            ones, and ``train_frozen`` the batch's, moving nothing.
        ramp_epochs: epochs over which radius and step grow from 0.

    Raises:
        ValueError: a negative `beta`.

    Source: Zhang et al., ICML 2019, Eq. 5; gradients flow into both predictions. Deviation: the clean logits serve both
    terms, where the authors' code forwards the clean images twice and so moves batch norm once more. They train on
    raw pixels: no normalisation in the model.

    >>> from protoat.threats import Linf
    >>> TRADES(Linf("8/255"), beta=6.0).attack.steps
    10
    """

    def __init__(
        self,
        threat: ThreatModel,
        *,
        beta: float = 6.0,
        steps: int = 10,
        step_size: Pixels | None = None,
        bn: BatchNormMode = "eval",
        ramp_epochs: float = 0.0,
    ) -> None:
        check_number("[0, inf)", "6 is usual, 0 trains on clean images only", beta=beta)
        super().__init__(TPGD(threat, steps=steps, step_size=step_size, bn=bn), ramp_epochs=ramp_epochs)
        self.beta = beta

    def forward(self, model: nn.Module, examples: Examples) -> Forwards:
        return clean_and_adversarial(model, examples)

    def losses(self, forwards: Forwards, y: Tensor) -> Tensor:
        return trades_loss(forwards, y, self.beta, self.label_smoothing)


def trades_loss(forwards: Forwards, y: Tensor, beta: float | Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of the clean view + `beta` (a number or (B,)) x ``KL(clean || adv)``, shape (B,).

    >>> import torch
    >>> from protoat.types import Output
    >>> clean, adv = (Output(torch.tensor([logits]), torch.zeros(1, 0)) for logits in ([2.0, 1.0], [1.0, 2.0]))
    >>> trades_loss(Forwards(torch.zeros(1, 4), adv, clean), torch.tensor([0]), 6.0)
    tensor([3.0860])
    """
    clean = clean_of(forwards, "TRADES")
    return cross_entropy(clean, y, label_smoothing) + beta * kl_divergence(clean.logits, forwards.adv.logits)
