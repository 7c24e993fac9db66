"""Batches for training: the data stays on the device and is augmented a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

from protoat.arguments import check_flag, check_kind, check_seed, check_whole
from protoat.data.augment import Augment
from protoat.data.base import ImageData
from protoat.data.batch_format import Origin
from protoat.errors import UserError
from protoat.functional.images import unit_pixels


class ImageLoader:
    """Iterates over batches ``(x, y)`` of one epoch: x (B, C, H, W) float32 in [0, 1], y (B,) int64.

    The last batch of a pass moves on to the next epoch; after a pass that was left before it the same epoch begins
    again, and `set_epoch` goes to any other. The order of an epoch depends on (seed, epoch) only, augmentation on
    (seed, epoch, batch, rank); so the number of the epoch is the only state, and any device draws the same.

    Args:
        data: the images; moved to `device` once.
        batch_size: images in a batch of this process; the last batch may be smaller.
        augment: crop and flip, or None.
        shuffle: a new order each epoch (default), else the order of `data`.
        drop_last: leave a smaller last batch out (default False).
        seed: of order and augmentation.
        origins: batches are ``(x, y, origin)``, with the `Origin` of the images, which methods ask for that keep
            something of each image (default False).
        device: where images are held and batches appear.
        rank: number of this process, from 0.
        world_size: number of processes. Batch b of all of them together holds the images of batch b of one process with
            `world_size` times the batch size. Every process gets equally many batches of equal sizes, so that up to
            ``world_size - 1`` images (others each epoch, when shuffled) are left out.

    Raises:
        ValueError: a batch size or rank out of range, or too few images for one batch.

    >>> data = ImageData(torch.full((5, 1, 2, 2), 255, dtype=torch.uint8), torch.arange(5) % 2, ("a", "b"))
    >>> loader = ImageLoader(data, batch_size=2, shuffle=False)
    >>> [(x.shape[0], x.max().item(), y.tolist()) for x, y in loader]
    [(2, 1.0, [0, 1]), (2, 1.0, [0, 1]), (1, 1.0, [0])]
    """

    def __init__(
        self,
        data: ImageData,
        *,
        batch_size: int,
        augment: Augment | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
        seed: int = 0,
        origins: bool = False,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        check_kind(ImageData, data=data)
        check_whole(batch_size=batch_size)
        check_whole(world_size=world_size)
        check_whole(0, rank=rank)
        check_seed(seed=seed)
        check_flag(shuffle=shuffle, drop_last=drop_last, origins=origins)
        if rank >= world_size:
            raise UserError(f"rank={rank} is outside 0 to {world_size - 1} for world_size={world_size}")
        self.data = data.to(device)
        self.batch_size = batch_size
        self.augment = augment
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.seed = seed
        self.origins = origins
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        if not len(self):
            raise UserError(
                f"{len(data)} images give no batch of batch_size={batch_size} for each of {world_size} processes"
            )

    def __len__(self) -> int:
        """Batches of an epoch, the same for every process."""
        images = len(self.data) // self.world_size
        return images // self.batch_size if self.drop_last else -(-images // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch, from 0, that the next pass goes through; a new loader begins with epoch 0."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        return self.iterate()

    def iterate(self, first_batch: int = 0) -> Iterator[Any]:
        """Batches of the present epoch from `first_batch` on, to go on in mid-epoch."""
        epoch, images, labels = self.epoch, self.data.images, self.data.labels
        order = self._order(epoch).to(labels.device)
        share = self.batch_size * self.world_size
        for batch in range(first_batch, len(self)):
            indices = order[batch * share : (batch + 1) * share].view(self.world_size, -1)[self.rank]
            x = images.index_select(0, indices)
            if self.augment is not None:
                x = self.augment(x, _generator(self.seed, epoch, batch, self.rank))
            if batch == len(self) - 1:
                self.epoch = epoch + 1
            pair = unit_pixels(x), labels.index_select(0, indices)
            yield (*pair, self._origin(indices, epoch, batch)) if self.origins else pair

    def _origin(self, indices: Tensor, epoch: int, batch: int) -> Origin:
        generator = _generator(self.seed, epoch, batch, self.rank)
        return Origin(indices, None if self.augment is None else self.augment.draw(len(indices), generator))

    def _order(self, epoch: int) -> Tensor:
        count = len(self.data)
        order = torch.randperm(count, generator=_generator(self.seed, epoch)) if self.shuffle else torch.arange(count)
        return order[: count - count % self.world_size]


def _generator(*parts: int) -> torch.Generator:
    """Randomness of its own for each tuple of numbers."""
    digest = blake2b(repr(parts).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
