"""What parts need to know of a run with several processes: a mean over them, and the network inside its wrapper."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["bare", "mean_over_processes"]


def bare(model: nn.Module) -> nn.Module:
    """The network inside a `DistributedDataParallel` wrapper, which must not see passes that nobody trains on.

    >>> net = nn.Linear(2, 2)
    >>> bare(net) is net
    True
    """
    return model.module if isinstance(model, DistributedDataParallel) else model


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
