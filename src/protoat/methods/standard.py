"""Training on clean images."""

from __future__ import annotations

from torch import Tensor, nn

from protoat.methods.base import Examples, OneStep
from protoat.threats import ThreatModel


class Standard(OneStep):
    """Training on clean images, the undefended baseline.

    Args:
        threat: accepted so that every method is built alike; clean training meets no adversary.
        ramp_epochs: without effect, since clean training meets no adversary.

    >>> from protoat.threats import Linf
    >>> Standard(Linf(0.3)).updates_per_batch
    1
    """

    def __init__(self, threat: ThreatModel, *, ramp_epochs: float = 0.0) -> None:
        super().__init__(threat, ramp_epochs=ramp_epochs)

    def unreached(self, epochs: int) -> list[str]:
        return []

    def examples(self, model: nn.Module, x: Tensor, y: Tensor) -> Examples:
        return Examples(x, x, y)
