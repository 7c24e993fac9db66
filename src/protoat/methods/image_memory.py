"""What a method keeps of every image: tables with a row for each, read and written a batch at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from protoat.data import Origin
from protoat.errors import UserError
from protoat.functional.batch import leading
from protoat.functional.distributed import max_over_processes, sum_over_processes
from protoat.memory import Memory

_ABSENT, _OLD, _NEW = 0, 1, 2
_CHUNK = 4096


class ImageMemory(Memory):
    """Tensors in the shape of the images, by the number of the image in its data set.

    They are kept as the images are stored: what is read is moved as augmentation moved the batch, and what is written
    is moved back, so that it lies on the same pixels in every epoch. Pixels that a crop had cut off keep what they
    had; black ones beside the image begin at 0. Tables grow with the highest number seen.

    Args:
        tables: name and floating-point type of each, such as ``perturbation=torch.float16``.

    >>> memory = ImageMemory(perturbation=torch.float16)
    >>> x, origin = torch.zeros(1, 1, 1, 2), Origin(torch.tensor([3]))
    >>> memory.write(origin, perturbation=x + 0.5)
    >>> memory.read(origin, x)["perturbation"].flatten()
    tensor([0.5000, 0.5000])
    """

    written: Tensor | None

    def __init__(self, **tables: torch.dtype) -> None:
        self.memory = (*tables, "written")  # type: ignore[misc] # of this object, not of the class
        super().__init__()
        self._types = tables

    def read(self, origin: Origin, x: Tensor, **fresh: Tensor) -> dict[str, Tensor]:
        """What is kept of each image of a batch `x` (B, ...), in its shape, type and place.

        Args:
            origin: which images these are.
            x: the images.
            fresh: by table, (B, ...) values for the images of which nothing is kept; 0 where not given.
        """
        written = self._fit(origin, x)
        index = origin.index.to(x.device)
        known, found = leading(written[index] != _ABSENT, x), {}
        for name in self._types:
            rows = getattr(self, name)[index].to(x)
            rows = rows if origin.moves is None else origin.moves(rows)
            found[name] = torch.where(known, rows, fresh.get(name, torch.zeros_like(x)))
        return found

    def write(self, origin: Origin, **tables: Tensor) -> None:
        """Keeps (B, ...) of each image of a batch."""
        for name, values in tables.items():
            written = self._fit(origin, values)
            index, table = origin.index.to(values.device), getattr(self, name)
            rows = values if origin.moves is None else origin.moves.undone(values, table[index].to(values))
            table[index] = rows.to(table.dtype)
            written[index] = _NEW

    def forget(self) -> None:
        """Begins anew: every image is as if never seen."""
        for name in self.memory:
            setattr(self, name, None)

    def exchange(self) -> None:
        """Gives every process what any of them has written since the last time; each must call it."""
        if self.written is None:
            return
        written = self._grown(int(max_over_processes(torch.tensor(len(self.written), device=self.written.device))))
        for rows in torch.arange(len(written), device=written.device).split(_CHUNK):
            new = written[rows] == _NEW
            writers = sum_over_processes(new.float())
            for name in self._types:
                table = getattr(self, name)
                values = table[rows].float()
                mean = sum_over_processes(torch.where(leading(new, values), values, 0.0))
                mean = mean / leading(writers.clamp_min(1), values)
                table[rows] = torch.where(leading(writers > 0, values), mean, values).to(table.dtype)
            written[rows] = torch.where(writers > 0, _OLD, written[rows].clamp_max(_OLD)).to(torch.uint8)

    def _fit(self, origin: Origin, x: Tensor) -> Tensor:
        """Makes room for the images of a batch, on its device; returns which rows hold something."""
        if len(origin.index) != len(x):
            raise UserError(f"{len(x)} images came with the numbers of {len(origin.index)}")
        if self.written is None:
            self.written = torch.zeros(0, dtype=torch.uint8, device=x.device)
            for name, dtype in self._types.items():
                setattr(self, name, torch.zeros(0, *x.shape[1:], dtype=dtype, device=x.device))
        shape = getattr(self, next(iter(self._types))).shape[1:]
        if shape != x.shape[1:]:
            raise UserError(f"images were {tuple(shape)} so far, got {tuple(x.shape[1:])}")
        self.to(x.device)
        return self._grown(int(origin.index.max()) + 1)

    def _grown(self, size: int) -> Tensor:
        """Which rows hold something, of at least so many."""
        assert self.written is not None
        if size > len(self.written):
            for name in self.memory:
                setattr(self, name, _longer(getattr(self, name), size))
        return self.written


def _longer(table: Tensor, size: int) -> Tensor:
    """`table` with rows of 0 behind."""
    longer = table.new_zeros(size, *table.shape[1:])
    longer[: len(table)] = table
    return longer
