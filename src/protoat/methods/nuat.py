"""NuAT: one step that drives the logits of a whole batch apart, measured by the nuclear norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from protoat.arguments import check_number
from protoat.attacks import PGD, BatchNormMode
from protoat.attacks.gradient import input_gradient
from protoat.functional.losses import cross_entropy
from protoat.functional.precision import at_least_float32
from protoat.methods.base import Examples, OneStep, clean_and_adversarial, clean_of
from protoat.spelling import argument, setting
from protoat.threats import ThreatModel, check_threat
from protoat.types import Forwards, Output


class NuAT(OneStep):
    """Cross-entropy on clean images + a weight x nuclear norm of the batch's logit differences, divided by its size.

    The weight grows from 0 over training. The attack, one full step from the corners of half the ball, raises
    cross-entropy in one batch and cross-entropy + the same term in the next.

    One step costs two passes for the attack, three with the term, and two forwards and two backwards for the weights.

    Args:
        threat: norm and radius.
        nuclear_weight: weight of the nuclear norm at the end (authors: 4.5 for ResNet-18 on CIFAR-10).
        weight_epochs: epochs over which it grows from 0; None is nine tenths of the run (authors: 90 of 100 epochs),
            and full weight where its length is not told.
        start: length of the random step that comes first, in units of eps (authors: 0.5 on CIFAR-10; on MNIST at 0.3
            1 leaves more robust accuracy).
        bn: batch norm while attacking: ``eval`` uses the running statistics, ``train`` the batch's, moving the running
            ones, and ``train_frozen`` the batch's, moving nothing.
        ramp_epochs: epochs over which radius and step grow from 0.

    Raises:
        ValueError: a negative weight or length, or a `start` outside [0, 1].

    Source: Sriramanan et al., NeurIPS 2021, with their code. Deviations: the clean logits that the attack drives away
    from come from the mode of the attack, in their code from training mode; the weight grows with each batch, not each
    epoch.

    >>> from protoat.threats import Linf
    >>> method = NuAT(Linf("8/255"), nuclear_weight=4.0)
    >>> method.at_epoch(45, 100)
    >>> method.weight
    2.0
    """

    batches: Tensor

    def __init__(
        self,
        threat: ThreatModel,
        *,
        nuclear_weight: float = 4.5,
        weight_epochs: float | None = None,
        start: float = 0.5,
        bn: BatchNormMode = "eval",
        ramp_epochs: float = 0.0,
    ) -> None:
        check_threat(threat, type(self))
        check_number("[0, inf)", "4.5 is usual", nuclear_weight=nuclear_weight)
        check_number("[0, 1]", "0.5 is usual", start=start)
        if weight_epochs is not None:
            check_number("[0, inf)", "write 0 for full weight at once", weight_epochs=weight_epochs)
        super().__init__(threat, ramp_epochs=ramp_epochs)
        self.attack = PGD(threat, steps=1, step_size=threat.eps, random_start=False, bn=bn)
        self.nuclear_weight = nuclear_weight
        self.weight_epochs = weight_epochs
        self.start = start
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    @property
    def weight(self) -> float:
        """Present weight of the nuclear norm."""
        length = 0.9 * (self._epochs or 0.0) if self.weight_epochs is None else self.weight_epochs
        return self.nuclear_weight * (min(1.0, self._epoch / length) if length else 1.0)

    def unreached(self, epochs: int) -> list[str]:
        if self.weight_epochs is None or self.weight_epochs <= epochs:
            return super().unreached(epochs)
        return [
            *super().unreached(epochs),
            f"the weight of the nuclear norm ends at {epochs / self.weight_epochs:.0%} of {argument('nuclear_weight')} "
            f"({setting(weight_epochs=self.weight_epochs)}); write {argument('weight_epochs')} of at most {epochs}",
        ]

    def examples(self, model: nn.Module, x: Tensor, y: Tensor) -> Examples:
        generator, norm, eps = self.generator(x), self.threat.geometry, self.eps
        weight = self.weight if int(self.batches) % 2 else 0.0
        self.batches += 1
        begun = norm.corner(x, self.start * eps, generator)
        with self.attack.posed(model, x, y, targets=None, eps=eps, generator=generator) as problem:
            clean = None
            if weight:
                with torch.no_grad():
                    clean = problem.model(problem.x).logits

            def loss(output: Output, labels: Tensor) -> Tensor:
                losses = cross_entropy(output, labels)
                return losses if clean is None else losses + weight * nuclear_norm(clean - output.logits) / len(losses)

            gradient, _, _ = input_gradient(problem.model, begun, problem.y, loss)
        return Examples(x, norm.project(begun + norm.step(gradient, eps, begun), x, eps), y)

    def forward(self, model: nn.Module, examples: Examples) -> Forwards:
        return clean_and_adversarial(model, examples)

    def loss(self, forwards: Forwards, y: Tensor) -> Tensor:
        clean = clean_of(forwards, "NuAT")
        apart = nuclear_norm(clean.logits - forwards.adv.logits) / len(y)
        return cross_entropy(clean, y, self.label_smoothing).mean() + self.weight * apart

    def losses(self, forwards: Forwards, y: Tensor) -> Tensor:
        """Of the norm, which is of the whole batch, each image has the product of its row with the norm's gradient."""
        clean = clean_of(forwards, "NuAT")
        rows = at_least_float32(clean.logits - forwards.adv.logits)
        left, _, right = torch.linalg.svd(rows.detach(), full_matrices=False)
        return cross_entropy(clean, y, self.label_smoothing) + self.weight * (rows * (left @ right)).sum(1)


def nuclear_norm(difference: Tensor) -> Tensor:
    """Sum of the singular values of (B, C) differences of logits, in at least float32.

    >>> round(float(nuclear_norm(torch.tensor([[3.0, 0.0], [0.0, -4.0]]))), 4)
    7.0
    """
    return torch.linalg.matrix_norm(at_least_float32(difference), "nuc")
