"""Converts the arrays of scikit-learn to images: rows of pixels, tables, single images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from protoat.errors import UserError
from protoat.functional.images import check_images, unit_pixels

_COLOURS = (1, 3, 4)


def shape_of_images(given: tuple[int, ...], image_shape: Sequence[int] | None = None) -> tuple[int, int, int]:
    """(C, H, W) of the images of an X of a shape.

    Args:
        given: (N, features), (N, H, W) or (N, C, H, W).
        image_shape: (C, H, W) of the images that rows hold; None takes a row for an image of one pixel.

    Raises:
        ValueError: X has another shape, or `image_shape` does not fit it.

    >>> shape_of_images((5, 64), (1, 8, 8)), shape_of_images((5, 64)), shape_of_images((5, 8, 8))
    ((1, 8, 8), (64, 1, 1), (1, 8, 8))
    """
    if len(given) == 2:
        shape = tuple(image_shape or (given[1], 1, 1))
        if len(shape) != 3 or np.prod(shape) != given[1]:
            raise UserError(f"image_shape={shape} does not fit X with {given[1]} features; write (C, H, W)")
        return (int(shape[0]), int(shape[1]), int(shape[2]))
    if len(given) not in (3, 4) or (len(given) == 4 and given[1] not in _COLOURS and given[3] in _COLOURS):
        hint = "; write X.transpose(0, 3, 1, 2)" if len(given) == 4 else ""
        raise UserError(f"X has the shape {given}, expected (N, features), (N, H, W) or (N, C, H, W){hint}")
    found = (given[-3] if len(given) == 4 else 1, given[-2], given[-1])
    if image_shape is not None and tuple(image_shape) != found:
        raise UserError(
            f"image_shape={tuple(image_shape)} does not fit X with images of shape {found}; leave it out, as it is of "
            "images that come as rows"
        )
    return found


def unit_images(X: np.ndarray, shape: tuple[int, int, int], pixel_range: tuple[float, float] | None = None) -> Tensor:
    """(N, C, H, W) float32 images in [0, 1].

    Args:
        X: numbers, N images of them.
        shape: (C, H, W).
        pixel_range: what black and white are in X; None is [0, 1], or 0 to 255 where it is 8-bit.

    Raises:
        ValueError: a range without extent, or X outside of it.
    """
    if pixel_range is None and X.dtype == np.uint8:
        return unit_pixels(torch.from_numpy(X.copy())).reshape(-1, *shape)
    low, high = (0.0, 1.0) if pixel_range is None else pixel_range
    if not -np.inf < low < high < np.inf:
        raise UserError(f"pixel_range={pixel_range} has no extent; write (black, white) as X has them")
    x = torch.from_numpy(((X.astype(np.float64) - low) / (high - low)).astype(np.float32)).reshape(-1, *shape)
    try:
        return check_images(x)
    except UserError as error:
        raise UserError(
            f"X lies in [{X.min():.7g}, {X.max():.7g}], expected [{low:g}, {high:g}]; scale it, or write "
            "pixel_range=(black, white)"
        ) from error
