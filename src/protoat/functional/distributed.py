"""The one reduction that parts need so that every process of a run takes the same decision."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

__all__ = ["mean_over_processes"]


def mean_over_processes(value: Tensor) -> Tensor:
    """Mean of `value` over the processes of a distributed run; `value` itself when there is one process.

    >>> import torch
    >>> mean_over_processes(torch.tensor(0.5))
    tensor(0.5000)
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
