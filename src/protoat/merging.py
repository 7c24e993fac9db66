"""The schedule by which prototypes of a class merge, and what an optimizer forgets of those that do."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from protoat.arguments import check_number, check_whole
from protoat.errors import UserError
from protoat.spelling import setting, together


@dataclass(frozen=True)
class MergeSchedule:
    """Prototypes of a class nearer than `threshold` become one, in some epochs of a run.

    Args:
        threshold: distance of unit vectors, in [0, 2); None or 0 never merges.
        start: share of a run in [0, 1] before the first merge.
        stop: share of a run in [0, 1] after which nothing is merged.
        every: epochs from one merge to the next.

    Raises:
        ValueError: an argument out of range.

    >>> schedule = MergeSchedule(0.1, start=0.25, stop=0.9, every=2)
    >>> schedule.first(8), [epoch for epoch in range(1, 9) if schedule.due(epoch, 8)]
    (2, [2, 4, 6])
    """

    threshold: float | None
    start: float = 0.25
    stop: float = 0.9
    every: int = 1

    def __post_init__(self) -> None:
        if self.threshold is not None:
            check_number("[0, 2)", "these are the distances of unit vectors", merge_threshold=self.threshold)
        check_number("[0, 1]", merge_start=self.start, merge_stop=self.stop)
        if self.start > self.stop:
            raise UserError(f"{setting(merge_start=self.start, merge_stop=self.stop)} must rise within [0, 1]")
        check_whole(1, f"{setting(merge_threshold=0)} turns merging off", merge_every=self.every)

    def first(self, epochs: int) -> int | None:
        """The epoch, from 1, after which prototypes may merge for the first time in a run of `epochs`; None is never.

        >>> MergeSchedule(0.1).first(120), MergeSchedule(0).first(120)
        (30, None)
        """
        first = self._first(epochs)
        return first if self.threshold and first <= _epochs(self.stop, epochs) else None

    def scheduled(self, epoch: int, epochs: int) -> bool:
        """Whether it is time after pass `epoch` of `epochs`, whatever the threshold."""
        first = self._first(epochs)
        return first <= epoch <= _epochs(self.stop, epochs) and (epoch - first) % self.every == 0

    def due(self, epoch: int, epochs: int) -> bool:
        """Whether prototypes merge after pass `epoch` of `epochs`."""
        return bool(self.threshold) and self.scheduled(epoch, epochs)

    def _first(self, epochs: int) -> int:
        return max(1, math.ceil(_epochs(self.start, epochs)))

    def unreached(self, epochs: int) -> list[str]:
        """What never happens in a run of so many epochs, in words."""
        if not self.threshold or self.first(epochs) is not None:
            return []
        return [
            f"prototypes never merge ({setting(merge_start=self.start)}, {setting(merge_stop=self.stop)}); write "
            f"{together(merge_start=0, merge_stop=1)}, or {setting(merge_threshold=0)} if none are to merge"
        ]


@torch.no_grad()
def forget(
    optimizer: Optimizer | None, parameter: Tensor, gone: tuple[Tensor, ...], kept: tuple[Tensor, ...] | None = None
) -> None:
    """Zeroes what an optimizer remembers of rows that were given up, and the momentum of those they merged with.

    Running squares stay in a row that is kept: they are no momentum but set the length of a step, and bias correction,
    which does not start anew, would make the next steps many times too long.

    Args:
        optimizer: None does nothing.
        parameter: whose rows these are.
        gone: their indices, or a mask.
        kept: indices of the rows that they merged with; None where none did.

    >>> rows = torch.nn.Parameter(torch.ones(2, 3))
    >>> optimizer = torch.optim.SGD([rows], lr=0.1, momentum=0.9)
    >>> rows.sum().backward(); optimizer.step()
    >>> forget(optimizer, rows, (torch.tensor([1]),))
    >>> optimizer.state[rows]["momentum_buffer"].any(1)
    tensor([ True, False])
    """
    state = {} if optimizer is None else optimizer.state.get(parameter, {})
    for name, value in state.items():
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            value[gone] = 0
            if kept is not None and name in ("momentum_buffer", "exp_avg"):
                value[kept] = 0


def _epochs(share: float, epochs: int) -> float:
    """So many epochs of a run: 0.07 of 100 are 7, where floats make it 7.000000000000001."""
    return round(share * epochs, 9)
