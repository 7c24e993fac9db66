"""Colour changes of a batch with one factor for each image; pixels in [0, 1], shape (B, 3, H, W)."""

from __future__ import annotations

import torch
from torch import Tensor


def greyscale(x: Tensor) -> Tensor:
    """Luma (ITU-R 601-2) as (B, 1, H, W).

    >>> round(greyscale(torch.ones(1, 3, 1, 1)).item(), 4)
    0.9999
    """
    red, green, blue = x.unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).unsqueeze(1)


def _blend(x: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    factor = factor.view(-1, 1, 1, 1)
    return (factor * x + (1 - factor) * other).clamp_(0, 1)


def adjust_brightness(x: Tensor, factor: Tensor) -> Tensor:
    """Multiplies each image by its factor (B,); 1 changes nothing, 0 gives black."""
    return _blend(x, x.new_zeros(()), factor)


def adjust_contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Moves each image towards (below 1) or away from (above 1) the mean of its luma."""
    return _blend(x, greyscale(x).mean(dim=(1, 2, 3), keepdim=True), factor)


def adjust_saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Moves each image towards or away from its grey version."""
    return _blend(x, greyscale(x), factor)


def adjust_hue(x: Tensor, shift: Tensor) -> Tensor:
    """Turns the hue of each image by its share (B,) of the colour circle, in [-0.5, 0.5].

    The formula that needs no case for each sextant: ``channel(n) = v - v*s*clamp(min(k, 4 - k), 0, 1)`` with
    ``k = (n + 6 h) mod 6`` and n = 5, 3, 1 for red, green, blue.
    """
    red, green, blue = x.unbind(1)
    value, lowest = x.amax(1), x.amin(1)
    chroma = value - lowest
    safe = torch.where(chroma > 0, chroma, 1.0)
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = hue + 6 * shift.view(-1, 1, 1)
    k = (torch.tensor([5.0, 3.0, 1.0], device=x.device, dtype=x.dtype).view(1, 3, 1, 1) + hue.unsqueeze(1)) % 6
    return value.unsqueeze(1) - chroma.unsqueeze(1) * torch.minimum(k, 4 - k).clamp_(0, 1)
