"""Input normalisation as a layer, so that attacks work on pixels in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from protoat.arguments import check_number
from protoat.errors import UserError


class Normalize(nn.Module):
    """Maps pixels in [0, 1] to ``(x - mean) / std`` for each channel.

    Args:
        mean, std: one number for each channel, or a single one for all; in pixel units, so 0.5 and not 127.5.

    Raises:
        ValueError: lists of different length, or a std that is not positive; in use, images with other channels.

    >>> Normalize([0.5], [0.25])(torch.ones(1, 1, 1, 1)).item()
    2.0
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not len(mean):
            raise UserError(f"mean has {len(mean)} and std {len(std)} numbers; expected one of each for every channel")
        for value in mean:
            check_number("(-inf, inf)", mean=value)
        for value in std:
            check_number("(0, inf)", std=value)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        channels = self.mean.shape[1]
        if x.dim() != 4 or x.shape[1] != channels != 1:
            raise UserError(f"images have shape {tuple(x.shape)}, expected (B, {channels}, H, W)")
        return (x - self.mean) / self.std


def normalization(mean: Sequence[float] | None, std: Sequence[float] | None) -> nn.Module:
    """`Normalize` with mean 0 or std 1 where one is None; nothing where both are.

    >>> normalization(None, None)
    Identity()
    """
    if mean is None and std is None:
        return nn.Identity()
    if mean is None:
        assert std is not None
        return Normalize([0.0] * len(std), std)
    return Normalize(mean, [1.0] * len(mean) if std is None else std)
