"""The only place where a training method and a regularizer meet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from protoat.methods import Method
from protoat.regularizers import Regularizer
from protoat.types import LossTerms

__all__ = ["EpochEnd", "Objective"]


class EpochEnd(NamedTuple):
    """What the end of an epoch brought: a reason to stop and roll back, or None; and facts for the log."""

    stop: str | None
    facts: dict[str, Any]


class Objective:
    """Cross-entropy of a method + `weight` x metric term + `norm_weight` x embedding norm (paper, Eq. 5).

    Args:
        method: how adversarial examples enter training.
        regularizer: metric term on the embeddings of the examples trained on, or None.
        weight: the paper's lambda_1 (0.5; 0.1 for Tiny ImageNet).
        norm_weight: the paper's lambda_2, weight of the mean squared embedding entry (0.001; 0.005 for MNIST).

    Raises:
        ValueError: a negative weight.

    Source: paper, Eq. 5. The paper calls the last term weight decay while its optimizer has one too; as in TLA, from
    which the value comes, it is taken as a penalty on embeddings.

    >>> from protoat.methods import PGDAT
    >>> from protoat.types import Linf
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> objective = Objective(PGDAT(Linf(0.1)))
    >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    >>> for terms in objective.losses(net, torch.rand(8, 1, 2, 2), torch.arange(8) % 2):
    ...     optimizer.zero_grad(); terms.total.backward(); optimizer.step()
    """

    def __init__(
        self,
        method: Method,
        regularizer: Regularizer | None = None,
        *,
        weight: float = 0.5,
        norm_weight: float = 0.0,
    ) -> None:
        if weight < 0 or norm_weight < 0:
            raise ValueError(f"weight={weight:g} and norm_weight={norm_weight:g} must not be negative")
        self.method = method
        self.regularizer = regularizer
        self.weight = weight
        self.norm_weight = norm_weight

    def losses(self, model: nn.Module, x: Tensor, y: Tensor) -> Iterator[LossTerms]:
        """The weighted terms of each optimizer step; the caller runs ``backward`` and ``step`` before the next."""
        for views in self.method.updates(model, x, y):
            embedding = views.adv.embedding
            if not embedding.shape[1] and (self.regularizer is not None or self.norm_weight):
                raise ValueError(
                    "the model returns logits only, and a metric or norm term needs embeddings; "
                    "wrap it: protoat.models.with_embedding(model, layer=...)"
                )
            yield LossTerms(
                self.method.outer_loss(views, y),
                None if self.regularizer is None else self.weight * self.regularizer.term(model, x, y, views),
                self.norm_weight * embedding.float().square().mean() if self.norm_weight else None,
            )

    @property
    def updates_per_batch(self) -> int:
        """Optimizer steps for each batch."""
        return self.method.updates_per_batch

    def parameters(self) -> list[nn.Parameter]:
        """What the objective itself learns (prototypes); it must be in the optimizer."""
        return [] if self.regularizer is None else list(self.regularizer.parameters())

    def to(self, device: torch.device | str) -> Objective:
        """Moves the regularizer; the method follows the batches."""
        if self.regularizer is not None:
            self.regularizer.to(device)
        return self

    def at_epoch(self, epoch: float) -> None:
        """Tells how far training is, in passes over the data."""
        self.method.at_epoch(epoch)

    def end_epoch(self, epoch: int, epochs: int, model: nn.Module, optimizer: Optimizer | None = None) -> EpochEnd:
        """Runs what is due after pass `epoch` (from 1): the method's guard, the regularizer's merge."""
        stop = self.method.end_epoch(model)
        if stop is not None or self.regularizer is None:
            return EpochEnd(stop, {})
        return EpochEnd(None, self.regularizer.end_epoch(epoch, epochs, optimizer))

    def state_dict(self) -> dict[str, Tensor]:
        """Prototypes, masks and counters (``regularizer.*``) and the method's state (``method.*``)."""
        parts = {"method": self.method.state_dict()}
        if self.regularizer is not None:
            parts["regularizer"] = self.regularizer.state_dict()
        return {f"{part}.{key}": value for part, state in parts.items() for key, value in state.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes back what `state_dict` gave."""
        part = lambda name: {k.removeprefix(name): v for k, v in state.items() if k.startswith(name)}  # noqa: E731
        self.method.load_state_dict(part("method."))
        if self.regularizer is not None:
            self.regularizer.load_state_dict(part("regularizer."))
