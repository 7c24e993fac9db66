"""What a metric-learning regularizer is: a module that owns its prototypes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = ["Regularizer"]


class Regularizer(nn.Module, ABC):
    """A metric term on embeddings. Its parameters must be in the optimizer; `protoat.fit` raises when they are not."""

    needs_clean: ClassVar[bool] = False

    @abstractmethod
    def forward(self, embedding: Tensor, y: Tensor, clean: Tensor | None = None) -> Tensor:
        """Unweighted scalar term.

        Args:
            embedding: (B, D) embeddings of the examples the step trains on.
            y: (B,) labels.
            clean: (B, D) embeddings of the clean images; given when `needs_clean` says so.
        """

    def end_epoch(self, epoch: int, epochs: int, optimizer: Optimizer | None = None) -> dict[str, Any]:
        """Called after pass `epoch` (from 1) of `epochs`; returns facts for the log, as JSON values."""
        return {}
