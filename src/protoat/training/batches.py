"""The batches of an epoch, from any point of it, whatever loader the caller has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader

from protoat.training.memory_format import MemoryFormat
from protoat.training.seeding import seed_global

__all__ = ["Batches"]


class Batches:
    """Serves epochs of a loader, on the device, and can begin inside one.

    A loader with ``set_epoch`` and ``iterate(first_batch)`` (`protoat.data.ImageLoader`) begins where it is told.
    Any other is run through from the start of the epoch with the random state it had, and what was done is dropped;
    that is exact as long as its randomness comes from torch's global state.

    Args:
        loader: a sized iterable of ``(x, y)``; a `DataLoader` is shared out by Accelerate when there are several
            processes, every other loader must give each process its own share.

    Raises:
        ValueError: no batches, or a loader made for another number of processes.
    """

    def __init__(self, loader: Any, accelerator: Accelerator, *, seed: int, memory_format: MemoryFormat = None) -> None:
        processes = accelerator.num_processes
        if getattr(loader, "world_size", processes) != processes:
            raise ValueError(
                f"the loader shares data among {loader.world_size} processes, and the run has {processes}; "
                "build it with rank=accelerator.process_index, world_size=accelerator.num_processes"
            )
        if isinstance(loader, DataLoader) and processes > 1:
            loader = accelerator.prepare_data_loader(loader)
        if not len(loader):
            raise ValueError("the training loader has no batches; there are fewer images than a batch holds")
        self.loader = loader
        self.seed = seed
        self.device = accelerator.device
        self.process = accelerator.process_index
        self.memory_format = memory_format

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, ...]]:
        """Batches of pass `epoch` (from 0), from batch `first` on."""
        if hasattr(self.loader, "set_epoch"):
            self.loader.set_epoch(epoch)
        for batch in self.loader.iterate(first) if hasattr(self.loader, "iterate") else self._replayed(epoch, first):
            yield tuple(self._placed(value) for value in batch)

    def _replayed(self, epoch: int, first: int) -> Iterator[Any]:
        iterator: Iterator[Any] | None = None
        for index in range(len(self.loader)):
            seed_global(self.device, "batch", self.seed, epoch, index, self.process)
            iterator = iter(self.loader) if iterator is None else iterator
            batch = next(iterator)
            if index >= first:
                yield batch

    def _placed(self, value: Tensor) -> Tensor:
        value = value.to(self.device, non_blocking=True)
        if self.memory_format is None or value.dim() != 4:
            return value
        return value.contiguous(memory_format=torch.channels_last)
