"""Learning-rate schedules: pure functions of the update index, so nothing of them needs to be stored."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch.optim import Optimizer

from protoat.arguments import check_number
from protoat.errors import UserError
from protoat.reprs import constructor_repr
from protoat.spelling import argument, setting


class Schedule(ABC):
    """How the learning rate moves over a run.

    Attributes:
        moves_optimizer: whether it sets the optimizer's rates by itself; `lr` then only tells them.
    """

    moves_optimizer: ClassVar[bool] = False

    @abstractmethod
    def lr(self, base_lr: float, update: float, updates_total: int, updates_per_epoch: int) -> float:
        """Learning rate of one optimizer step.

        Args:
            base_lr: the optimizer's learning rate.
            update: index of the step, from 0.
            updates_total: steps of the whole run.
            updates_per_epoch: steps of one pass over the data, replays of a batch included.
        """

    @property
    def description(self) -> str:
        """Class and settings, by which a resumed run is known."""
        return f"{type(self).__name__}{vars(self)}"

    def __repr__(self) -> str:
        return constructor_repr(self)

    def check(self, optimizer: Optimizer, base_lr: float, *, epochs: int, updates: int, validated: bool) -> None:
        """Refuses what does not fit a run, before it begins.

        Args:
            optimizer: of the run.
            base_lr, updates: see `lr`.
            epochs: of the run.
            validated: whether each of them ends with a validation.

        Raises:
            ValueError: rates that do not fit.
        """
        self.lr(base_lr, 0, updates, updates // epochs)

    def after_update(self) -> None:
        """Called after each optimizer step."""

    def after_epoch(self, accuracy: float | None) -> None:
        """Called after each pass over the data, with the validation accuracy where there was one."""

    def unreached(self, epochs: int) -> list[str]:
        """What never happens in a run of so many epochs, in words, and what to write instead; `fit` warns of it."""
        return []


class Constant(Schedule):
    """The optimizer's learning rate throughout.

    >>> Constant().lr(0.1, 7, 100, 10)
    0.1
    """

    def lr(self, base_lr: float, update: float, updates_total: int, updates_per_epoch: int) -> float:
        return base_lr


class StepDecay(Schedule):
    """Multiplies the learning rate by `factor` at each milestone.

    Args:
        milestones: ascending; epochs, counted from 0, that begin with the next lower rate, or shares of the run in
            (0, 1), as ``[0.5, 0.75]``.
        factor: in (0, 1).

    Raises:
        ValueError: milestones that do not ascend, lie before the first epoch or are of both kinds, a factor outside
            (0, 1).

    Source: paper, section 4.2 (CIFAR: 30, 60, 90 of 120 epochs, factor 0.1).

    >>> schedule = StepDecay([2, 4], factor=0.1)
    >>> [round(schedule.lr(0.1, update, 60, 10), 6) for update in (0, 19, 20, 40)]
    [0.1, 0.1, 0.01, 0.001]
    >>> [round(StepDecay([0.5]).lr(0.1, update, 60, 10), 6) for update in (29, 30)]
    [0.1, 0.01]
    """

    def __init__(self, milestones: Sequence[int | float], *, factor: float = 0.1) -> None:
        if isinstance(milestones, str) or not isinstance(milestones, Sequence):
            raise UserError(
                f"{setting(milestones=milestones)} is no list; write epochs, [30, 60], or shares, [0.5, 0.75]"
            )
        self.milestones = list(milestones)
        for milestone in self.milestones:
            check_number("(0, inf)", milestones=milestone)
        fits = all(milestone < 1 if self._shares else milestone == int(milestone) for milestone in self.milestones)
        if not fits or self.milestones != sorted(set(self.milestones)):
            raise UserError(
                f"{setting(milestones=self.milestones)} must be ascending epochs of 1 or more, or ascending shares of "
                "the run between 0 and 1"
            )
        check_number("(0, 1)", "0.1 divides the learning rate by ten", factor=factor)
        self.factor = factor

    @property
    def _shares(self) -> bool:
        """Whether milestones are shares of the run."""
        return any(milestone < 1 for milestone in self.milestones)

    def drops(self, epochs: int) -> list[float]:
        """Passes over the data after which the rate drops, in a run of so many.

        >>> StepDecay([2, 4]).drops(8), StepDecay([0.25, 0.7]).drops(10)
        ([2, 4], [2.5, 7.0])
        """
        return [round(milestone * epochs, 9) for milestone in self.milestones] if self._shares else self.milestones

    def lr(self, base_lr: float, update: float, updates_total: int, updates_per_epoch: int) -> float:
        unit = updates_total if self._shares else updates_per_epoch
        passed = sum(update >= milestone * unit for milestone in self.milestones)
        return base_lr * self.factor**passed

    def unreached(self, epochs: int) -> list[str]:
        late = [] if self._shares else [milestone for milestone in self.milestones if milestone >= epochs]
        if not late:
            return []
        count = len(self.milestones)
        shares = [round(0.5 + 0.5 * place / count, 2) for place in range(count)]
        earlier = f"{argument('milestones')} below {epochs}, or " if epochs > 1 else ""
        return [
            f"the learning rate never drops at {'epoch' if len(late) == 1 else 'epochs'} {', '.join(map(str, late))}; "
            f"write {earlier}shares of the run, such as {shares}"
        ]


class Cyclic(Schedule):
    """One cycle: linear from `lr_min` up to the optimizer's learning rate, then linear back down.

    Args:
        lr_min: rate of the first update.
        peak: where the top lies, as a fraction of the run in (0, 1).

    Raises:
        ValueError: a negative `lr_min`, a peak outside (0, 1), or an optimizer's rate below `lr_min`.

    Source: paper, section 4.2 (0.001 to 0.2); the closed form of the DAWNBench schedule in Wong, Rice & Kolter,
    ICLR 2020. Deviation: momentum stays constant, which their CyclicLR leaves cycling without saying so.

    >>> [Cyclic(lr_min=0.0).lr(0.2, update, 5865, 391) for update in (0, 1466.25, 2932.5)]
    [0.0, 0.1, 0.2]
    """

    def __init__(self, *, lr_min: float = 0.001, peak: float = 0.5) -> None:
        check_number("[0, inf)", lr_min=lr_min)
        check_number("(0, 1)", "0.5 is the middle of the run", peak=peak)
        self.lr_min = lr_min
        self.peak = peak

    def lr(self, base_lr: float, update: float, updates_total: int, updates_per_epoch: int) -> float:
        if base_lr < self.lr_min:
            raise UserError(
                f"the optimizer's {setting(lr=base_lr)}, the top of the cycle, is below {setting(lr_min=self.lr_min)}"
            )
        up = self.peak * updates_total
        height = update / up if update <= up else (updates_total - update) / (updates_total - up)
        return self.lr_min + (base_lr - self.lr_min) * height


class WarmupCosine(Schedule):
    """Linear from `lr_start` up to the optimizer's learning rate, then half a cosine down to `lr_min`; each update.

    Args:
        warmup_epochs: length of the first part; 0 begins at the top.
        lr_start: rate from which it rises; the first update is one step above it.
        lr_min: rate of the last update.

    Raises:
        ValueError: a negative number; in use, a warm-up as long as the run, or an optimizer's rate below the others.

    Source: Jiang et al., NeurIPS 2020 (ACL: 10 epochs from 0 to 5.0, down to 1e-6); Kim et al., NeurIPS 2020 (RoCL: 10
    epochs from 0.1 to 1.5, down to 0). Deviation: RoCL's code moves the rate once an epoch.

    >>> schedule = WarmupCosine(warmup_epochs=1, lr_min=0.1)
    >>> [round(schedule.lr(1.1, update, 30, 10), 6) for update in (0, 9, 19, 29)]
    [0.11, 1.1, 0.6, 0.1]
    """

    def __init__(self, *, warmup_epochs: float = 10, lr_start: float = 0.0, lr_min: float = 0.0) -> None:
        check_number("[0, inf)", warmup_epochs=warmup_epochs, lr_start=lr_start, lr_min=lr_min)
        self.warmup_epochs = warmup_epochs
        self.lr_start = lr_start
        self.lr_min = lr_min

    def lr(self, base_lr: float, update: float, updates_total: int, updates_per_epoch: int) -> float:
        warmup = self.warmup_epochs * updates_per_epoch
        if warmup >= updates_total:
            epochs = updates_total / updates_per_epoch
            raise UserError(
                f"{setting(warmup_epochs=self.warmup_epochs)} leaves nothing of {epochs:g} epochs; shorten it"
            )
        if base_lr < max(self.lr_start, self.lr_min):
            raise UserError(
                f"the optimizer's {setting(lr=base_lr)}, the top of the schedule, is below "
                f"{setting(lr_start=self.lr_start)} or {setting(lr_min=self.lr_min)}"
            )
        done = update + 1
        if done <= warmup:
            return self.lr_start + (base_lr - self.lr_start) * done / warmup
        descent = (done - warmup) / (updates_total - warmup)
        return self.lr_min + (base_lr - self.lr_min) * (1 + math.cos(math.pi * descent)) / 2
