"""Wraps a torch scheduler as a schedule."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from protoat.arguments import check_choice
from protoat.errors import UserError
from protoat.training.nested import pack, unpack
from protoat.training.schedule import Schedule

_EACH_UPDATE = (OneCycleLR, CyclicLR)


class TorchSchedule(Schedule):
    """Steps a ``torch.optim.lr_scheduler`` after each update or each epoch. Its state is in the checkpoints.

    Args:
        scheduler: over the optimizer that `fit` is given. `ReduceLROnPlateau` follows the validation: robust accuracy,
            or clean accuracy where nothing attacks, so it needs ``mode="max"`` and a validation after each epoch.
        every: ``"update"`` or ``"epoch"``; by default what torch's documentation does with it, which is after each
            update for `OneCycleLR` and `CyclicLR`, after each epoch for all others.

    Raises:
        ValueError: no scheduler, an unknown `every`, or `ReduceLROnPlateau` with another mode or `every`.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    >>> TorchSchedule(torch.optim.lr_scheduler.StepLR(optimizer, step_size=2)).every
    'epoch'
    """

    moves_optimizer = True

    def __init__(self, scheduler: LRScheduler, *, every: Literal["update", "epoch"] | None = None) -> None:
        if not isinstance(scheduler, LRScheduler):
            raise UserError(f"scheduler is a {type(scheduler).__name__}, expected one of torch.optim.lr_scheduler")
        if every is not None:
            check_choice(Literal["update", "epoch"], every=every)
        self.follows_validation = isinstance(scheduler, ReduceLROnPlateau)
        if self.follows_validation and (every == "update" or getattr(scheduler, "mode", "max") != "max"):
            raise UserError("ReduceLROnPlateau follows validation accuracy, once an epoch; build it with mode='max'")
        self.scheduler: Any = scheduler
        self.every = every or ("update" if isinstance(scheduler, _EACH_UPDATE) else "epoch")
        self._used: float | None = None
        self._updates = 0

    def check(self, optimizer: Optimizer, base_lr: float, *, epochs: int, updates: int, validated: bool) -> None:
        """Refuses what cannot come to its end.

        Raises:
            ValueError: another optimizer's scheduler, a cycle that is shorter than the run, no validation to follow, or
                a state that no checkpoint can hold.
        """
        name = type(self.scheduler).__name__
        if self.scheduler.optimizer is not optimizer:
            raise UserError(f"{name} moves another optimizer; build it over the one that is passed to fit")
        if self.follows_validation and not validated:
            raise UserError(f"{name} follows validation accuracy after each epoch; pass validation, validate_every=1")
        self._updates = updates
        steps, total = self._steps(epochs), getattr(self.scheduler, "total_steps", None)
        if isinstance(total, int) and total < steps:
            raise UserError(f"{name} has total_steps={total}, and the run takes {steps}; write total_steps={steps}")
        self.state()

    def lr(self, base_lr: float, update: float, updates_total: int, updates_per_epoch: int) -> float:
        """Rate of the first group in the last step that was taken."""
        return self._present() if self._used is None else self._used

    def after_update(self) -> None:
        self._used = self._present()
        if self.every == "update":
            self.scheduler.step()

    def after_epoch(self, accuracy: float | None) -> None:
        if self.follows_validation:
            self.scheduler.step(accuracy)
        elif self.every == "epoch":
            self.scheduler.step()

    def unreached(self, epochs: int) -> list[str]:
        steps, name = self._steps(epochs), type(self.scheduler).__name__
        late = []
        for attribute in ("total_steps", "T_max", "total_iters", "step_size", "milestones"):
            value = getattr(self.scheduler, attribute, None)
            values = sorted(value) if isinstance(value, Counter | list | tuple) else [value]
            reached = steps - (attribute in ("step_size", "milestones"))
            late += [f"{attribute}={last}" for last in values if isinstance(last, int) and last > reached]
        unit = f"{self.every}s"
        return [f"{name} takes {steps} steps, one for each of {steps} {unit}, and never reaches {x}" for x in late]

    @property
    def description(self) -> str:
        """The settings of the scheduler, and none of what a run has made of it."""
        known = inspect.signature(type(self.scheduler)).parameters.keys() - {"last_epoch", "optimizer"}
        kept = {key: value for key, value in sorted(vars(self.scheduler).items()) if key in known}
        plain = {key: value for key, value in kept.items() if isinstance(value, bool | int | float | str | Counter)}
        return f"{type(self.scheduler).__name__}{plain}, every {self.every}"

    def state(self) -> dict[str, Tensor]:
        """The scheduler's state, as tensors."""
        return pack(self.scheduler.state_dict(), f"the state of {type(self.scheduler).__name__}")

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes back what `state` gave; the rates themselves are the optimizer's."""
        self.scheduler.load_state_dict(unpack(tensors))

    def _steps(self, epochs: int) -> int:
        """Of the scheduler, in the run of so many epochs that was checked."""
        return self._updates if self.every == "update" else epochs

    def _present(self) -> float:
        return float(self.scheduler.optimizer.param_groups[0]["lr"])
