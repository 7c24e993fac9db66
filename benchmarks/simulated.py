"""Simulates bfloat16 as processors with units for it compute: operands and results rounded, sums in float32.

Where a processor has no units, PyTorch's own kernels for bfloat16 take many times as long as float32; this takes little
longer than float32. It shows what bfloat16 does to numbers, and nothing of what it saves.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

# Autocast rounds the operands of these; all of `_ROUNDED` compute in float32 and give bfloat16.
_CAST = {torch.conv2d, F.conv2d, F.linear}
_ROUNDED = _CAST | {
    *(F.batch_norm, torch.batch_norm, F.adaptive_avg_pool2d, F.avg_pool2d, torch.mean, Tensor.mean),
    *(torch.add, Tensor.add, Tensor.__add__, Tensor.__iadd__, torch.mul, Tensor.mul, Tensor.__mul__),
}


class _Round(torch.autograd.Function):
    """Rounds values on the way forward and gradients on the way back."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        return values.bfloat16().float()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override] # one input, one gradient
        return gradient.bfloat16().float()


def _rounded(value: Any) -> Any:
    return _Round.apply(value) if isinstance(value, Tensor) and value.dtype == torch.float32 else value


class Autocast(TorchFunctionMode):
    """Takes the place of `torch.autocast` in bfloat16, for the layers of LeNet and ResNet."""

    def __init__(self, device_type: str, dtype: torch.dtype) -> None:
        super().__init__()
        if dtype != torch.bfloat16:
            raise ValueError(f"{dtype} is not simulated, only torch.bfloat16 is")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _CAST:
            args = [_rounded(value) for value in args]
            kwargs = {name: _rounded(value) for name, value in kwargs.items()}
        result = func(*args, **kwargs)
        return _rounded(result) if func in _ROUNDED else result
