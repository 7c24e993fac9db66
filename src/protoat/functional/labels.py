"""Checks of a batch of labels."""

from __future__ import annotations

import torch
from torch import Tensor

from protoat.errors import UserError


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
