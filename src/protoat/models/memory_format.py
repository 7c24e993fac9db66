"""Memory formats (channels last), and which networks they suit."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from protoat.errors import UserError
from protoat.spelling import setting

MemoryFormat = Literal["channels_last"] | None


def narrow_layer(model: nn.Module) -> str | None:
    """Name of a layer that a CPU may not survive with channels last: 1x1, with a stride, over fewer than 16 channels.

    Source: oneDNN 3.12 (torch 2.14) writes out of bounds in the backward of such layers: below 8 channels on CPUs with
    AVX2 only, below 16 with AVX-512, which was seen to end the process from maps of 56 pixels on.

    >>> narrow_layer(nn.Sequential(nn.Conv2d(16, 8, 1, stride=2), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1, stride=2)))
    '2'
    """
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) != layer.stride and layer.in_channels < 16:
            return name
    return None


def check_memory_format(memory_format: MemoryFormat, model: nn.Module, device: torch.device) -> None:
    """Refuses a layout that is none, or that could crash the process.

    Raises:
        ValueError: an unknown layout; channels last on a CPU, for a network with a `narrow_layer`.
    """
    if memory_format not in (None, "channels_last"):
        raise UserError(f"{setting(memory_format=memory_format)} is unknown; write 'channels_last', or None")
    if memory_format is None or device.type != "cpu":
        return
    if (name := narrow_layer(model)) is not None:
        raise UserError(
            f"{setting(memory_format=memory_format)} can crash on a CPU: layer {name} of the network is a 1x1 "
            "convolution with stride over fewer than 16 channels; leave memory_format out, or widen the network"
        )
