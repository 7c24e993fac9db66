"""Random crop and flip of a whole batch, which can be repeated and undone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from protoat.arguments import check_flag, check_whole


@dataclass(frozen=True)
class Augment:
    """Random horizontal flip, then random crop of the zero-padded image back to its own size.

    Args:
        padding: black pixels added on each side before the crop, so that the image moves by at most this much; 0 turns
            the crop off (the default). CIFAR's custom is 4.
        flip: mirror half of the images left to right (default False).

    Raises:
        ValueError: negative padding.

    Source: the custom of Madry et al., ICLR 2018, and of Wong et al., ICLR 2020, for CIFAR; they crop first and flip
    then, which has the same distribution.

    >>> images = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4)
    >>> Augment(padding=1, flip=True)(images, torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3, 4, 4])
    """

    padding: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        check_whole(0, "write 0 for no crop", padding=self.padding)
        check_flag(flip=self.flip)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Draws a shift and a side for each image, and applies them.

        Args:
            images: (B, C, H, W) of any dtype, on any device.
            generator: randomness, on the CPU, so that every device sees the same crops and flips.
        """
        moves = self.draw(len(images), generator)
        return images if moves is None else moves(images)

    def draw(self, count: int, generator: torch.Generator) -> Moves | None:
        """A shift and a side for each of `count` images, as a call with the same generator draws them."""
        if not (self.padding or self.flip):
            return None
        top, left = torch.randint(2 * self.padding + 1, (2, count), generator=generator)
        flipped = torch.rand(count, generator=generator) < 0.5 if self.flip else None
        return Moves(self.padding, top, left, flipped)


@dataclass(frozen=True, eq=False)
class Moves:
    """How each image of a batch was shifted and mirrored; arguments as those of `crop`.

    >>> image = torch.tensor([[[[1, 2], [3, 4]]]])
    >>> moves = Moves(1, torch.tensor([1]), torch.tensor([2]))
    >>> moves(image).flatten().tolist(), moves.undone(moves(image), 0 * image).flatten().tolist()
    ([2, 0, 4, 0], [0, 2, 0, 4])
    """

    padding: int
    top: Tensor
    left: Tensor
    flipped: Tensor | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) moved so."""
        return crop(images, self.padding, self.top, self.left, self.flipped)

    def undone(self, moved: Tensor, before: Tensor) -> Tensor:
        """`moved` put back where it came from; what the moves had cut off is as in `before`, all (B, C, H, W)."""
        shown = torch.cat([moved, torch.ones_like(moved[:, :1])], 1)
        back = crop(shown, self.padding, 2 * self.padding - self.top, 2 * self.padding - self.left)
        if self.flipped is not None:
            back = torch.where(self.flipped.to(back.device).view(-1, 1, 1, 1), back.flip(-1), back)
        return torch.where(back[:, -1:] > 0, back[:, :-1], before)


def crop(images: Tensor, padding: int, top: Tensor, left: Tensor, flipped: Tensor | None = None) -> Tensor:
    """Crops each image at its own place, back to its own size.

    Args:
        images: (B, C, H, W).
        padding: black pixels on each side.
        top, left: (B,) int64 corner of each crop in the padded image, in [0, 2 * padding]; `padding` is the middle.
        flipped: (B,) bool, which images are mirrored left to right before the crop; default none.
    """
    count, channels, height, width = images.shape
    image = torch.arange(count)
    if flipped is not None:
        images, image = torch.cat([images, images.flip(-1)]), image + count * flipped
    padded = F.pad(images, (padding,) * 4)
    rows, columns = padded.shape[-2:]
    # Every row of every crop is a run of `width` values in flat memory: gathering runs instead of single pixels is what
    # makes this fast.
    plane = image[:, None] * channels + torch.arange(channels)
    row = (plane * rows + top[:, None])[:, :, None] + torch.arange(height)
    starts = row * columns + left[:, None, None]
    runs = padded.flatten().unfold(0, width, 1)
    return runs.index_select(0, starts.flatten().to(images.device)).view(count, channels, height, width)
