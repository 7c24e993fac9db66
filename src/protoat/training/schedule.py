"""Learning-rate schedules: pure functions of the update index, so nothing of them needs to be stored."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

__all__ = ["Constant", "Cyclic", "Schedule", "StepDecay", "WarmupCosine"]


class Schedule(ABC):
    """How the learning rate moves over a run."""

    @abstractmethod
    def lr(self, base_lr: float, update: float, updates_total: int, updates_per_epoch: int) -> float:
        """Learning rate of one optimizer step.

        Args:
            base_lr: the optimizer's learning rate.
            update: index of the step, from 0.
            updates_total: steps of the whole run.
            updates_per_epoch: steps of one pass over the data, replays of a batch included.
        """


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
        milestones: epochs, counted from 0, that begin with the next lower rate; ascending.
        factor: in (0, 1).

    Raises:
        ValueError: milestones that do not ascend or lie before the first epoch, a factor outside (0, 1).

    Source: paper, section 4.2 (CIFAR: 30, 60, 90 of 120 epochs, factor 0.1).

    >>> schedule = StepDecay([2, 4], factor=0.1)
    >>> [round(schedule.lr(0.1, update, 60, 10), 6) for update in (0, 19, 20, 40)]
    [0.1, 0.1, 0.01, 0.001]
    """

    def __init__(self, milestones: Sequence[int], *, factor: float = 0.1) -> None:
        self.milestones = list(milestones)
        if self.milestones != sorted(set(self.milestones)) or any(epoch < 1 for epoch in self.milestones):
            raise ValueError(f"milestones={self.milestones} must be ascending epochs of 1 or more")
        if not 0 < factor < 1:
            raise ValueError(f"factor={factor:g} is outside (0, 1); 0.1 divides the learning rate by ten")
        self.factor = factor

    def lr(self, base_lr: float, update: float, updates_total: int, updates_per_epoch: int) -> float:
        passed = sum(update >= epoch * updates_per_epoch for epoch in self.milestones)
        return base_lr * self.factor**passed


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
        if lr_min < 0:
            raise ValueError(f"lr_min={lr_min:g} is negative")
        if not 0 < peak < 1:
            raise ValueError(f"peak={peak:g} is outside (0, 1); 0.5 is the middle of the run")
        self.lr_min = lr_min
        self.peak = peak

    def lr(self, base_lr: float, update: float, updates_total: int, updates_per_epoch: int) -> float:
        if base_lr < self.lr_min:
            raise ValueError(f"the optimizer's lr={base_lr:g}, the top of the cycle, is below lr_min={self.lr_min:g}")
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
        if warmup_epochs < 0 or lr_start < 0 or lr_min < 0:
            raise ValueError(
                f"warmup_epochs={warmup_epochs:g}, lr_start={lr_start:g} and lr_min={lr_min:g} must not be negative"
            )
        self.warmup_epochs = warmup_epochs
        self.lr_start = lr_start
        self.lr_min = lr_min

    def lr(self, base_lr: float, update: float, updates_total: int, updates_per_epoch: int) -> float:
        warmup = self.warmup_epochs * updates_per_epoch
        if warmup >= updates_total:
            epochs = updates_total / updates_per_epoch
            raise ValueError(f"warmup_epochs={self.warmup_epochs:g} leaves nothing of {epochs:g} epochs; shorten it")
        if base_lr < max(self.lr_start, self.lr_min):
            raise ValueError(
                f"the optimizer's lr={base_lr:g}, the top of the schedule, is below lr_start={self.lr_start:g} "
                f"or lr_min={self.lr_min:g}"
            )
        done = update + 1
        if done <= warmup:
            return self.lr_start + (base_lr - self.lr_start) * done / warmup
        descent = (done - warmup) / (updates_total - warmup)
        return self.lr_min + (base_lr - self.lr_min) * (1 + math.cos(math.pi * descent)) / 2
