"""Adam for images that leave one by one."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from protoat.attacks.active import Rows


@dataclass
class Adam(Rows):
    """State of Adam for each image that is still being moved.

    Attributes:
        w: (B, ...) points, in the tanh space or in that of images.
        mean, square: running means of the gradient and of its square.
        rows: (B,) which images of the batch these are.
    """

    w: Tensor
    mean: Tensor = field(init=False)
    square: Tensor = field(init=False)
    rows: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.mean = self.square = torch.zeros_like(self.w)
        self.rows = torch.arange(len(self.w), device=self.w.device)

    def descend(self, gradient: Tensor, rate: float, step: int) -> None:
        """The step number `step`, from 1, down a gradient with respect to `w`."""
        self.mean = 0.9 * self.mean + 0.1 * gradient
        self.square = 0.999 * self.square + 0.001 * gradient.square()
        scale = (self.square / (1 - 0.999**step)).sqrt_().add_(1e-8)
        self.w = self.w.detach() - rate / (1 - 0.9**step) * self.mean / scale
