"""The index and augmentation of each image of a batch, for methods that keep something of every image."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from protoat.data.augment import Moves
from protoat.errors import UserError


@dataclass(frozen=True, eq=False)
class Origin:
    """Where the images of a batch come from.

    Args:
        index: (B,) int64 number of each image in its data set, from 0.
        moves: how augmentation moved them; None left them as they are stored.

    Raises:
        ValueError: no integers, or a negative one.

    >>> import torch
    >>> Origin(torch.tensor([4, 2])).index
    tensor([4, 2])
    """

    index: Tensor
    moves: Moves | None = None

    def __post_init__(self) -> None:
        if self.index.dim() != 1 or self.index.is_floating_point():
            shape = tuple(self.index.shape)
            raise UserError(f"the index of images is {self.index.dtype} of shape {shape}, expected (B,) integers")
        if len(self.index) and int(self.index.min()) < 0:
            raise UserError(f"the index of an image is {int(self.index.min())}, expected numbers from 0")
        object.__setattr__(self, "index", self.index.long())
