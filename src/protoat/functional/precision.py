"""Floating-point types of models, and half precision promoted to float32 where it is too coarse."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def float_types(model: nn.Module) -> set[torch.dtype]:
    """Floating-point types of a model's parameters, which its images may have; float32 where it has none.

    >>> float_types(nn.Linear(2, 2).double())
    {torch.float64}
    """
    return {p.dtype for p in model.parameters() if p.is_floating_point()} or {torch.float32}


def at_least_float32(values: Tensor) -> Tensor:
    """`values` in float32 where they were in half precision; float32 and float64 stay as they are.

    >>> at_least_float32(torch.ones(1, dtype=torch.bfloat16)).dtype, at_least_float32(torch.ones(1).double()).dtype
    (torch.float32, torch.float64)
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))
