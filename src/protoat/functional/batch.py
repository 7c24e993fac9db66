"""Values and random numbers for each example of a batch."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Radius = float | Tensor


def leading(values: Tensor, like: Tensor) -> Tensor:
    """A (B,) tensor in the shape that broadcasts over images such as `like`."""
    return values.view(-1, *[1] * (like.dim() - 1))


def per_example(value: Radius, like: Tensor) -> Radius:
    """A number as it is, values (B,) in the shape that broadcasts over examples such as `like`.

    >>> per_example(torch.zeros(2), torch.zeros(2, 3, 4, 4)).shape
    torch.Size([2, 1, 1, 1])
    """
    return leading(value, like) if isinstance(value, Tensor) and value.dim() else value


def noise_like(x: Tensor, kind: Literal["uniform", "normal"], generator: torch.Generator | None = None) -> Tensor:
    """Random numbers in the shape of `x`, uniform in [-1, 1) or standard normal.

    They are drawn in one order whatever the memory format of `x`, so that this changes no result.

    >>> noise_like(torch.zeros(2, 3), "uniform", torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3])
    """
    noise = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    return noise.uniform_(-1, 1, generator=generator) if kind == "uniform" else noise.normal_(generator=generator)
