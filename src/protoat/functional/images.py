"""What counts as a batch of images."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["check_images"]


def check_images(x: Tensor) -> None:
    """Refuses what is no batch of images in [0, 1]; rounding errors of up to 1e-6 beyond it are none.

    Raises:
        ValueError: no floats, or pixels outside the range.

    >>> check_images(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    Traceback (most recent call last):
    ValueError: images are torch.uint8, expected floats in [0, 1]; divide 8-bit pixels by 255
    """
    if not x.is_floating_point():
        raise ValueError(f"images are {x.dtype}, expected floats in [0, 1]; divide 8-bit pixels by 255")
    if not len(x):
        return
    low, high = (float(value) for value in torch.aminmax(x.detach()))
    if not (low >= -1e-6 and high <= 1 + 1e-6):
        raise ValueError(
            f"images lie in [{low:.3g}, {high:.3g}], expected [0, 1]; "
            "put normalisation inside the model (protoat.models.Normalize)"
        )
