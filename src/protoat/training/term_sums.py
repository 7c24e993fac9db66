"""Epoch means of the loss terms, and the check for non-finite losses."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from protoat.errors import NonFiniteLossError
from protoat.functional.distributed import mean_over_processes
from protoat.types import LossTerms


class TermSums:
    """Adds up the terms of each update, and raises at the first that is not finite.

    Reading a number off a GPU makes it wait, so terms are read `every` so many updates; whoever saves calls `flush`
    first, so that nothing spoilt is ever saved.

    Attributes:
        sums: by term name.
        count: updates added up.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self.sums: dict[str, float] = {}
        self.count = 0
        self.latest: dict[str, float] = {}
        self._pending: list[tuple[int, int, dict[str, Tensor]]] = []

    def add(self, terms: LossTerms, update: int, epoch: int) -> None:
        """Takes the terms of one update (index from 0, epoch from 1).

        Raises:
            NonFiniteLossError: names the term.
        """
        self._pending.append((update, epoch, terms.named()))
        if len(self._pending) >= self.every:
            self.flush()

    def flush(self) -> None:
        """Reads what is pending; raises as `add` does."""
        if not self._pending:
            return
        rows = torch.stack([torch.stack(list(named.values())).float() for _, _, named in self._pending]).tolist()
        pending, self._pending = self._pending, []
        for (update, epoch, named), row in zip(pending, rows, strict=True):
            self.latest = dict(zip(named, row, strict=True))
            for name, value in self.latest.items():
                if not math.isfinite(value):
                    raise NonFiniteLossError(name, value, update, epoch)
                self.sums[name] = self.sums.get(name, 0.0) + value
            self.count += 1

    def means(self, device: torch.device) -> dict[str, float]:
        """Mean of each term over the updates so far and over the processes."""
        self.flush()
        dtype = torch.float32 if device.type == "mps" else torch.float64
        own = torch.tensor([value / self.count for value in self.sums.values()], dtype=dtype, device=device)
        return dict(zip(self.sums, mean_over_processes(own).tolist(), strict=True))

    def restart(self, sums: dict[str, float] | None = None, count: int = 0) -> None:
        """Begins an epoch, or goes on in the middle of one."""
        self.sums, self.count = dict(sums or {}), count
