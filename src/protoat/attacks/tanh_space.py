"""Adam over tanh-transformed pixels, the optimizer of the Carlini-Wagner attacks."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor


def to_tanh_space(x: Tensor) -> Tensor:
    """Images in [0, 1] as points without bounds; black and white pixels start 5e-4 inside, where they can still move.

    >>> to_tanh_space(torch.tensor([0.0, 0.5, 1.0])).abs() < 4
    tensor([True, True, True])
    """
    return torch.atanh((2 * x - 1) * 0.999)


def from_tanh_space(w: Tensor) -> Tensor:
    """The images in [0, 1] that points of the tanh space stand for.

    >>> from_tanh_space(torch.tensor([0.0, 100.0]))
    tensor([0.5000, 1.0000])
    """
    return (torch.tanh(w) + 1) / 2


@dataclass
class Adam:
    """State of Adam for each image that is still being moved.

    Attributes:
        w: (B, ...) points, in the tanh space or in that of images.
        mean, square: running means of the gradient and of its square.
        rows: (B,) which images of the batch these are.
    """

    w: Tensor
    mean: Tensor
    square: Tensor
    rows: Tensor

    def keep(self, mask: Tensor) -> None:
        """Goes on with some of the images."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name)[mask])

    def descend(self, gradient: Tensor, rate: float, step: int) -> None:
        """The step number `step`, from 1, down a gradient with respect to `w`."""
        self.mean = 0.9 * self.mean + 0.1 * gradient
        self.square = 0.999 * self.square + 0.001 * gradient.square()
        scale = (self.square / (1 - 0.999**step)).sqrt_().add_(1e-8)
        self.w = self.w.detach() - rate / (1 - 0.9**step) * self.mean / scale
