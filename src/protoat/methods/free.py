"""Free adversarial training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from protoat.arguments import check_whole
from protoat.errors import UserError
from protoat.functional.forward import output_of
from protoat.methods.base import Method
from protoat.threats import ThreatModel
from protoat.types import Forwards


class FreeAT(Method):
    """Replays each batch and takes the perturbation's gradient from the very backward that trains the weights.

    The perturbation belongs to the slot in the batch, not to the image, and lives for the whole run. With a regularizer
    it follows the total loss, because there is one backward.

    Args:
        threat: norm and radius; each replay takes a step of the full radius.
        replays: updates on each batch (paper: 8 for CIFAR, 4 for MNIST and Tiny ImageNet). Divide the epochs by it.
        ramp_epochs: epochs over which the radius grows from 0.

    Raises:
        ValueError: fewer than one replay.
        RuntimeError: the caller did not run ``backward`` between two yields.

    Source: Shafahi et al., NeurIPS 2019. Of the public codes this follows the authors': the sum of image and
    perturbation is cut to [0, 1] inside the graph, so no pass ever leaves the range.

    >>> from protoat.threats import Linf
    >>> FreeAT(Linf("8/255"), replays=8).updates_per_batch
    8
    """

    memory: ClassVar[tuple[str, ...]] = ("perturbation",)
    perturbation: Tensor | None

    def __init__(self, threat: ThreatModel, *, replays: int = 8, ramp_epochs: float = 0.0) -> None:
        super().__init__(threat, ramp_epochs=ramp_epochs)
        check_whole(replays=replays)
        self.replays = replays

    @property
    def updates_per_batch(self) -> int:
        return self.replays

    def updates(self, model: nn.Module, x: Tensor, y: Tensor) -> Iterator[Forwards]:
        stored = self._sized_for(x)
        for _ in range(self.replays):
            delta = stored[: len(x)].clone().requires_grad_()
            x_adv = _cut(x + delta)
            yield Forwards(x_adv, output_of(model, x_adv))
            if delta.grad is None:
                raise RuntimeError(
                    "FreeAT found no gradient on its perturbation: call terms.total.backward() before the next update"
                )
            # An overflow in half precision, for which the caller skips the step, must not live on in the perturbation.
            gradient = torch.where(delta.grad.isfinite(), delta.grad, 0.0)
            norm = self.threat.geometry
            stored[: len(x)] = norm.into_ball(delta.detach() + norm.step(gradient, self.eps, x_adv.detach()), self.eps)

    def _sized_for(self, x: Tensor) -> Tensor:
        """The stored perturbation on the device of `x`, with a slot for each of its images."""
        old = self.perturbation
        if old is None:
            old = x.new_zeros(0, *x.shape[1:])
        if old.shape[1:] != x.shape[1:]:
            raise UserError(f"FreeAT holds a perturbation for images {tuple(old.shape[1:])}, got {tuple(x.shape[1:])}")
        missing = max(0, len(x) - len(old))
        self.perturbation = torch.cat([old.to(x), x.new_zeros(missing, *x.shape[1:])])
        return self.perturbation


def _cut(x: Tensor) -> Tensor:
    """`x` inside [0, 1]; the gradient passes wherever nothing is cut off, at black and white pixels too.

    What ``clamp`` passes at its bounds differs between versions of torch: where it is nothing, the perturbation would
    never leave zero on black paper.
    """
    return torch.where((x >= 0) & (x <= 1), x, x.detach().clamp(0, 1))
