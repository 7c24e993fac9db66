"""One pass over the data, in which method, regularizer and modes know how far training is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import Any, NamedTuple, TypeVar

from torch import nn
from torch.optim import Optimizer

from protoat.methods import Method
from protoat.models import multi_prototype_head
from protoat.modes import Modes
from protoat.regularizers import Regularizer
from protoat.weighting import Weighting

__all__ = ["Epoch", "EpochEnd"]

T = TypeVar("T")


class EpochEnd(NamedTuple):
    """What the end of an epoch brought: a reason to stop and roll back, or None; and facts for the log."""

    stop: str | None
    facts: dict[str, Any]


class Epoch:
    """One pass over the data: ramps and warm-ups follow its batches; guards look and prototypes merge at its end.

    `protoat.Objective.epochs` makes them.

    Attributes:
        number: which pass it is, from 1.
        epochs: how many there are.
    """

    def __init__(
        self,
        method: Method,
        regularizer: Regularizer | None,
        model: nn.Module,
        optimizer: Optimizer | None = None,
        *,
        number: int,
        epochs: int,
        modes: Modes | None = None,
        weighting: Weighting | None = None,
    ) -> None:
        self.number = number
        self.epochs = epochs
        self._parts = method, regularizer, model, optimizer
        self._modes = modes
        self._weighting = weighting
        self._begun = False
        self._end: EpochEnd | None = None

    def batches(self, loader: Iterable[T], *, length: int | None = None, done: int = 0) -> Iterator[T]:
        """The batches of a loader; before each one the method learns how far training is.

        Args:
            loader: of anything.
            length: batches in the pass; default ``done + len(loader)``.
            done: batches of this pass that came before the first one of `loader`.

        Raises:
            TypeError: a loader without a length, and no `length`.
        """
        if length is None:
            if not isinstance(loader, Sized):
                raise TypeError(f"a {type(loader).__name__} has no length; write epoch.batches(loader, length=...)")
            length = done + len(loader)
        self._begun = True
        for index, batch in enumerate(loader, done):
            self._at(self.number - 1 + index / length)
            yield batch

    def end(self) -> EpochEnd:
        """Runs what is due after the pass, once: the method's guard, the regularizer's merge, the modes' clustering.

        `Objective.epochs` does so before the next pass; a loop that measures the model before that calls it first.

        Raises:
            RuntimeError: the pass had no batches.
        """
        if not self._begun:
            raise RuntimeError(
                f"epoch {self.number} knows no batches; write `for x, y in epoch.batches(loader)`, by which ramps and "
                "warm-ups see how far training is"
            )
        if self._end is None:
            method, regularizer, model, optimizer = self._parts
            self._at(self.number)
            stop = method.end_epoch(model)
            facts = {}
            if stop is None and regularizer is not None:
                facts = regularizer.end_epoch(self.number, self.epochs, optimizer)
            if stop is None and (head := multi_prototype_head(model)) is not None:
                facts |= head.end_epoch(self.number, self.epochs, optimizer)
            if stop is None and self._modes is not None:
                facts |= self._modes.end_epoch(self.number, self.epochs, model)
            if stop is None and self._weighting is not None:
                if self._modes is not None:
                    self._weighting.count(*self._modes.all_groups())
                facts |= self._weighting.facts()
            self._end = EpochEnd(stop, facts)
        return self._end

    def _at(self, epoch: float) -> None:
        """Tells how far training is, in passes over the data."""
        self._parts[0].at_epoch(epoch, self.epochs)
        if self._modes is not None:
            self._modes.at_epoch(epoch, self.epochs)
