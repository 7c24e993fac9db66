"""Training on clean images."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from protoat.methods.base import Method
from protoat.types import ThreatModel, Views, as_output

__all__ = ["Standard"]


class Standard(Method):
    """Training on clean images, the undefended baseline.

    Args:
        threat: accepted so that every method is built alike; clean training meets no adversary.
        ramp_epochs: without effect for the same reason.

    >>> from protoat.types import Linf
    >>> Standard(Linf(0.3)).updates_per_batch
    1
    """

    def __init__(self, threat: ThreatModel, *, ramp_epochs: float = 0.0) -> None:
        super().__init__(threat, ramp_epochs=ramp_epochs)

    def updates(self, model: nn.Module, x: Tensor, y: Tensor) -> Iterator[Views]:
        yield Views(x, as_output(model(x)))
