"""Checks of a batch of images and of their labels."""

from __future__ import annotations

import torch
from torch import Tensor

from protoat.errors import UserError

# Resizing, or normalising and back, leaves pixels this far outside [0, 1]; half a grey level of 8 bits is twice that.
ROUNDING = 1e-3


def unit_pixels(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Images in [0, 1]: pixels of 8 bits divided by 255, in `dtype` or float32; floats as they are, or in `dtype`.

    >>> unit_pixels(torch.tensor([0, 51, 255], dtype=torch.uint8))
    tensor([0.0000, 0.2000, 1.0000])
    """
    if x.dtype == torch.uint8:
        return x.to(dtype or torch.float32).div_(255)
    return x if dtype is None else x.to(dtype)


def check_images(x: Tensor) -> Tensor:
    """A batch of images in [0, 1], with rounding errors of up to `ROUNDING`, 0.001, cut off.

    Returns:
        `x` itself where it lies in [0, 1]; a copy where something was cut off.

    Raises:
        ValueError: no floats, or pixels outside the range.

    >>> check_images(torch.tensor([[1.0004, 0.5]]))
    tensor([[1.0000, 0.5000]])
    >>> check_images(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    Traceback (most recent call last):
    protoat.errors.UserError: images are torch.uint8, expected floats in [0, 1]; divide 8-bit pixels by 255
    """
    if not x.is_floating_point():
        raise UserError(f"images are {x.dtype}, expected floats in [0, 1]; divide 8-bit pixels by 255")
    if not x.numel():
        return x
    low, high = (float(value) for value in torch.aminmax(x.detach()))
    if low >= 0 and high <= 1:
        return x
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        cause = "divide 8-bit pixels by 255" if high > 2 and low >= 0 else "put normalisation inside the model"
        raise UserError(
            f"images lie in [{low:.7g}, {high:.7g}], expected [0, 1] up to rounding of {ROUNDING:g}; "
            f"{cause}{'' if cause.startswith('divide') else ' (protoat.Normalize)'}"
        )
    return x.clamp(0, 1)


def class_numbers(y: Tensor, images: int) -> Tensor:
    """The labels of so many images as int64, whatever the width of the integers that came.

    Raises:
        ValueError: no integers, not one for each image, or negative ones.

    >>> class_numbers(torch.tensor([1, 0], dtype=torch.uint8), 2)
    tensor([1, 0])
    >>> class_numbers(torch.tensor([-1, 0]), 2)
    Traceback (most recent call last):
    protoat.errors.UserError: labels go down to -1, expected class numbers from 0
    """
    if y.shape != (images,):
        advice = ""
        if y.dim() == 2 and len(y) == images:
            advice = "; write y.squeeze(1)" if y.shape[1] == 1 else "; write y.argmax(1)"
        raise UserError(
            f"labels have shape {tuple(y.shape)}, expected one class number for each of {images} images, "
            f"({images},){advice}"
        )
    if y.is_floating_point() or y.is_complex():
        raise UserError(f"labels are {y.dtype}, expected class numbers from 0, which are integers; write y.long()")
    y = y.to(torch.int64)
    if images and int(y.min()) < 0:
        raise UserError(f"labels go down to {int(y.min())}, expected class numbers from 0")
    return y
