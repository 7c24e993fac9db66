"""A faster input gradient for convolutions that read few channels, such as the first of a network, on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["narrow_gradients"]

_MOST_CHANNELS = 4
_MOST_COLUMNS = 2**24  # entries of the unfolded gradient: 64 MiB


class _Narrow(torch.autograd.Function):
    """`F.conv2d` whose input gradient is one matrix product and a fold.

    An attack needs this gradient at every step, training never; oneDNN takes two to four times as long for it where
    there are less than about eight input channels.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, layer: nn.Conv2d) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.layer, ctx.size = layer, x.shape[2:]
        return nn.Conv2d.forward(layer, x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        layer = ctx.layer
        columns = weight.flatten(1).T @ gradients[0].flatten(2)
        gradient = F.fold(columns, ctx.size, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        return gradient, None, None, None


def _forward(layer: nn.Conv2d, x: Tensor) -> Tensor:
    weight = layer.weight
    plain = x.dim() == 4 and x.dtype == weight.dtype and not torch.is_autocast_enabled("cpu")
    wanted = x.requires_grad and torch.is_grad_enabled() and not weight.requires_grad
    columns = x.numel() * layer.kernel_size[0] * layer.kernel_size[1] // (layer.stride[0] * layer.stride[1])
    if plain and wanted and columns <= _MOST_COLUMNS:
        return _Narrow.apply(x, weight, layer.bias, layer)
    return nn.Conv2d.forward(layer, x)


@contextmanager
def narrow_gradients(model: nn.Module) -> Iterator[None]:
    """While the context lasts, frozen convolutions of up to four channels on the CPU have the faster input gradient.

    Outputs are the same to the bit, gradients up to rounding. Compiled models, and layers that anything else has
    changed, are left alone.

    >>> model = nn.Conv2d(1, 8, 3)
    >>> with narrow_gradients(model):
    ...     "forward" in vars(model)
    True
    >>> "forward" in vars(model)
    False
    """
    layers = [
        layer
        for layer in ([] if hasattr(model, "_orig_mod") else model.modules())
        if type(layer) is nn.Conv2d
        and "forward" not in vars(layer)
        and layer.in_channels <= _MOST_CHANNELS
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and layer.weight.device.type == "cpu"
    ]
    for layer in layers:
        layer.forward = partial(_forward, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
