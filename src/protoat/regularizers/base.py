"""The base class of metric-learning regularizers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from protoat.memory import Memory
from protoat.reprs import constructor_repr
from protoat.types import Forwards


class Regularizer(Memory, ABC):
    """A metric term on embeddings. Its parameters must be in the optimizer; `protoat.fit` raises when they are not.

    Attributes:
        per_process: names of the buffers that differ between the processes of a distributed run.
    """

    per_process: ClassVar[tuple[str, ...]] = ()

    def __repr__(self) -> str:
        return constructor_repr(self)

    def unreached(self, epochs: int) -> list[str]:
        """What never happens in a run of so many epochs, in words, and what to write instead; `fit` warns of it."""
        return []

    @abstractmethod
    def forward(self, embedding: Tensor, y: Tensor) -> Tensor:
        """Unweighted scalar term of embeddings (B, D) with labels (B,); for use in any training loop."""

    def of_both(self, adversarial: Tensor, clean: Tensor, y: Tensor) -> Tensor:
        """Unweighted scalar term of adversarial and clean embeddings (B, D) of the same images, as one batch."""
        return self(torch.cat([adversarial, clean]), torch.cat([y, y]))

    def check_modes(self, per_class: list[int] | None) -> None:
        """Refuses modes that do not fit: how many each class has, None without modes; for `tied`.

        Raises:
            ValueError: there are none, or more than prototypes.
        """

    def at_places(self, places: Tensor | None) -> None:
        """Tells the place (B,) of the prototype of each image's mode within its class, -1 where unknown; for `tied`."""

    def with_own_rate(self) -> list[nn.Parameter]:
        """The parameters that learn at `prototype_lr_factor`; all others learn as those of the network."""
        return list(self.parameters())

    def term(self, model: nn.Module, x: Tensor, y: Tensor, forwards: Forwards) -> Tensor:
        """Unweighted scalar term of one step. One that needs more than the adversarial embeddings overrides this.

        Args:
            model: for further forwards, which the docstring of the override counts.
            x: (B, ...) clean images.
            y: (B,) labels.
            views: the forwards the method has made.
        """
        return self(forwards.adv.embedding, y)

    def end_epoch(self, epoch: int, epochs: int, optimizer: Optimizer | None = None) -> dict[str, Any]:
        """Called after pass `epoch` (from 1) of `epochs`; returns facts for the log, as JSON values."""
        return {}
