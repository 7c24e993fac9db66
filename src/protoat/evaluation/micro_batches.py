"""Micro-batching: splits a forward that does not fit into memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from protoat.errors import UserError
from protoat.functional.forward import output_of
from protoat.types import Output

T = TypeVar("T")
logger = logging.getLogger(__name__)


class MicroBatched(nn.Module):
    """A model that takes a batch of any size, in pieces of at most `size` images once memory has run out.

    An attack still sees one batch and draws the same random numbers, so outcomes do not depend on the pieces. Each
    piece is forwarded again in the backward pass, so that activations of one piece only are held at a time.

    Args:
        network: images -> `Output`, logits, or an object with an attribute ``logits``; in a mode in which images do not
            affect each other.

    Attributes:
        size: most images in one forward of `network`; None while whole batches fit.

    >>> model = MicroBatched(nn.Flatten())
    >>> model.size = 2
    >>> model(torch.zeros(5, 1, 2, 2)).logits.shape
    torch.Size([5, 4])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.size: int | None = None

    def forward(self, x: Tensor) -> Output:
        if self.size is None or len(x) <= self.size:
            return self._whole(x)
        kept = torch.is_grad_enabled() and x.requires_grad
        outputs = [
            Output(*checkpoint(self._whole, part, use_reentrant=False)) if kept else self._whole(part)
            for part in x.split(self.size)
        ]
        return Output(*(torch.cat(parts) for parts in zip(*outputs, strict=True)))

    def _whole(self, x: Tensor) -> Output:
        return output_of(self.network, x)

    def retrying(self, work: Callable[[], T], images: int) -> T:
        """Runs `work` on that many images, again with pieces half as large for as long as memory runs out.

        Raises:
            ValueError: not even one image fits.
        """
        while True:
            try:
                return work()
            except RuntimeError as error:
                if not (isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)):
                    raise
                if self.size == 1:
                    raise UserError("memory runs out with a single image; free some, or use another device") from error
            # Outside the clause above, so that the error no longer holds on to tensors.
            self.size = max(min(self.size or images, images) // 2, 1)
            clear_device_cache(garbage_collection=True)
            logger.info("out of memory: from here on at most %d images in one forward", self.size)
