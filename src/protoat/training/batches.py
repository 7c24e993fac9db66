"""Serves the batches of an epoch from any point of it, for any loader."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from protoat.data.batch_format import as_batch, origin_of
from protoat.errors import UserError
from protoat.functional.images import check_images
from protoat.functional.preserve import preserve_host_random_state
from protoat.models.memory_format import MemoryFormat
from protoat.training.loader_memory import LoaderMemory, is_stateful
from protoat.training.nested import pack, part, prefixed, unpack
from protoat.training.seeding import seed_everything
from protoat.training.signals import helpers_spared, workers_spared


@dataclass(eq=False)
class Batches:
    """Serves epochs of a loader, on the device, and can begin inside one.

    A loader with ``set_epoch`` and ``iterate(first_batch)`` (`protoat.data.ImageLoader`) begins where it is told, and
    so does one with ``state_dict`` and ``load_state_dict``. Any other is run through from the start of the epoch with
    the random state it had, and what was done is dropped. That random state is the global one of torch, NumPy and
    ``random``, which is set for each batch, and what `LoaderMemory` finds, which is part of each checkpoint.

    Args:
        raw: a sized iterable of batches, see `as_batch`; a `DataLoader` is shared out by Accelerate when there are
            several processes, every other loader must give each process its own share.
        dtypes: floating-point types that the model takes.
        labelled: whether batches must have labels.
        per_image: whether batches must say which images they hold, see `origin_of`; they then are ``(x, y, origin)``.

    Raises:
        ValueError: no batches, what can be read only once, or a loader made for another number of processes.
    """

    raw: Any
    accelerator: Accelerator
    _: KW_ONLY
    seed: int
    memory_format: MemoryFormat
    dtypes: Collection[torch.dtype]
    labelled: bool
    per_image: bool

    def __post_init__(self) -> None:
        processes = self.accelerator.num_processes
        _check_loader(self.raw)
        if getattr(self.raw, "world_size", processes) != processes:
            raise UserError(
                f"the loader shares data among {self.raw.world_size} processes, and the run has {processes}; "
                "build it with rank=accelerator.process_index, world_size=accelerator.num_processes"
            )
        shared = isinstance(self.raw, DataLoader) and processes > 1
        self.loader = self.accelerator.prepare_data_loader(self.raw) if shared else self.raw
        self.device = self.accelerator.device
        self.goes_on = is_stateful(self.loader) and not hasattr(self.loader, "iterate")
        # torchdata's loader draws from its generator whenever an iterator is made, which its own state leaves out.
        self.memory = LoaderMemory(getattr(self.loader, "generator", None) if self.goes_on else self.loader)
        self._at_start = self._restored = self.memory.state()
        self._inside = False

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, epoch: int, first: int = 0) -> Generator[tuple[Any, ...], None, None]:
        """Batches of pass `epoch` (from 0), from batch `first` on."""
        for source in _with_epochs(self.loader):
            source.set_epoch(epoch)
        own = hasattr(self.loader, "iterate")
        self._at_start, self._inside = self.memory.state(), True
        try:
            with closing(self.loader.iterate(first) if own else self._replayed(epoch, first)) as batches:
                for batch in batches:
                    x, y = as_batch(batch, dtypes=self.dtypes, labelled=self.labelled)
                    placed = self._placed(x), self._placed(y)
                    yield (*placed, origin_of(batch)) if self.per_image else placed
        finally:
            self._inside = False

    def again(self, epoch: int, count: int) -> Generator[tuple[Any, ...], None, None]:
        """The first `count` batches of pass `epoch`, once it is over; the loader is then where it was."""
        before = self.state()
        try:
            with closing(self.epoch(epoch)) as batches:
                yield from itertools.islice(batches, count)
        finally:
            self.restore(before)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint needs to know of the loader: its state where it goes on from there, else of this epoch."""
        own = prefixed("loader", pack(self.loader.state_dict(), "the loader's state")) if self.goes_on else {}
        of_start = self._inside and not self.goes_on
        return own | prefixed("memory", self._at_start if of_start else self.memory.state())

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes back what `state` gave."""
        if self.goes_on and (own := part("loader", tensors)):
            self.loader.load_state_dict(unpack(own))
        self._restored = part("memory", tensors)
        self.memory.restore(self._restored)

    def _replayed(self, epoch: int, first: int) -> Generator[Any, None, None]:
        begin = first if self.goes_on else 0
        iterator: Iterator[Any] | None = None
        with workers_spared(self.loader):
            for index in range(begin, len(self.loader)):
                seed_everything(self.device, "batch", self.seed, epoch, index, self.accelerator.process_index)
                if iterator is None:
                    iterator = _fresh(self.loader, self.goes_on)
                    if begin:
                        self.memory.restore(self._restored)
                try:
                    batch = next(iterator)
                except StopIteration:
                    raise UserError(
                        f"the training loader has a length of {len(self.loader)} and ended after {index} batches"
                    ) from None
                if index >= first:
                    yield batch
            if self.goes_on and iterator is not None:
                next(iterator, None)  # so that it knows its end

    def _placed(self, value: Tensor) -> Tensor:
        value = value.to(self.device, non_blocking=True)
        if self.memory_format is None or value.dim() != 4:
            return value
        return value.contiguous(memory_format=torch.channels_last)


def first_batch(
    loader: Any,
    device: torch.device,
    *,
    dtypes: Collection[torch.dtype],
    labelled: bool = True,
    per_image: bool = False,
    what: str,
) -> tuple[Tensor, Tensor]:
    """A first batch of any loader, on the CPU; the loader and all random states are as before afterwards.

    Raises:
        ValueError: it is no batch of images in [0, 1] with labels.
    """
    own, epoch = hasattr(loader, "iterate"), getattr(loader, "epoch", 0)
    before = loader.state_dict() if is_stateful(loader) and not own else None
    memory = LoaderMemory(loader if before is None else None)
    state = memory.state()
    try:
        with preserve_host_random_state(device), workers_spared(loader):
            iterator = loader.iterate(0) if own else _fresh(loader, before is not None)
            if iterator is loader:
                raise UserError(f"the {what} loader can be read only once; pass one that begins anew in each epoch")
            batch = next(iterator, None)
            del iterator
    finally:
        if own:
            loader.set_epoch(epoch)
        memory.restore(state)
        if before is not None:
            loader.load_state_dict(before)
    if batch is None:
        raise UserError(f"{what} holds no images; pass a loader with at least one batch")
    try:
        x, y = as_batch(batch, dtypes=dtypes, labelled=labelled)
        check_images(x)
        if per_image:
            origin_of(batch)
    except ValueError as error:
        raise UserError(f"{what}: {error}") from None
    return x, y


def _check_loader(loader: Any) -> None:
    if hasattr(loader, "images") and hasattr(loader, "labels"):
        raise UserError("train is a data set; pass its batches: protoat.ImageLoader(train, batch_size=128)")
    if isinstance(loader, Dataset):
        raise UserError(
            "train is a data set; pass its batches: torch.utils.data.DataLoader(train, batch_size=128, shuffle=True)"
        )
    try:
        size = len(loader)
    except TypeError:
        raise UserError(
            f"train is a {type(loader).__name__} without a length; pass a DataLoader, a list of batches or any "
            "iterable whose len() is the number of its batches"
        ) from None
    if not size:
        raise UserError("the training loader has no batches; there are fewer images than a batch holds")


def _fresh(loader: Any, goes_on: bool) -> Iterator[Any]:
    """An iterator whose workers are new: those of ``persistent_workers`` hold random states that nothing can store."""
    source = getattr(loader, "base_dataloader", loader)
    if isinstance(source, DataLoader) and not goes_on:
        source._iterator = None
    with helpers_spared() if getattr(source, "num_workers", 0) else nullcontext():
        return iter(loader)


def _with_epochs(loader: Any) -> list[Any]:
    """Loader, samplers and data set, as far as they ask which epoch it is."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    parts = (loader, getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None))
    found = [*parts, getattr(loader, "dataset", None)] if isinstance(loader, DataLoader) else [loader]
    return [part for part in {id(part): part for part in found}.values() if hasattr(part, "set_epoch")]
