"""One epoch: tells method, regularizer and modes how far training is, and runs what is due at its end."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sized
from typing import Any, NamedTuple, TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.optim import Optimizer

from protoat.methods import Method
from protoat.models import multi_prototype_head
from protoat.modes import Modes
from protoat.regularizers import Regularizer
from protoat.weighting import Weighting

logger = logging.getLogger(__name__)

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


def warn_of_eval_mode(model: nn.Module) -> bool:
    """Says whether an evaluation between two epochs has left a model in eval mode, and warns of it."""
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm | _DropoutNd)]
    left = not model.training and bool(layers) and not any(layer.training for layer in layers)
    if left:
        logger.warning(
            "the model trains in eval mode: batch norm keeps its statistics and dropout is off; call model.train() "
            "after each evaluation"
        )
    return left


def warn_of_the_unlearned(objective: nn.Module, optimizer: Optimizer) -> None:
    """Warns of parameters of the objective that the optimizer lacks."""
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if any(id(parameter) not in held for parameter in objective.parameters()):
        logger.warning(
            "the optimizer lacks what the objective learns, such as prototypes, which stay as they are; build it "
            "from protoat.parameter_groups(model, objective, lr=...)"
        )
