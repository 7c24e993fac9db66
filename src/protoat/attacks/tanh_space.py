"""The tanh space of pixels, in which the Carlini-Wagner attacks search without bounds."""

from __future__ import annotations

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
