"""Helpers for several processes: averages, and unwrapping a wrapped model."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def unwrap_model(model: nn.Module) -> nn.Module:
    """The network inside a `DistributedDataParallel` wrapper, which must not see passes that nobody trains on.

    >>> net = nn.Linear(2, 2)
    >>> unwrap_model(net) is net
    True
    """
    return model.module if isinstance(model, DistributedDataParallel) else model


def from_first_process(value: Tensor) -> Tensor:
    """`value` of the first process of a distributed run, of the same shape in all; itself when there is one process.

    >>> import torch
    >>> from_first_process(torch.tensor(2))
    tensor(2)
    """
    if processes() == 1:
        return value
    result = value.clone()
    dist.broadcast(result, src=0)
    return result


def mean_over_processes(value: Tensor) -> Tensor:
    """Mean of `value` over the processes of a distributed run; `value` itself when there is one process.

    >>> import torch
    >>> mean_over_processes(torch.tensor(0.5))
    tensor(0.5000)
    """
    return sum_over_processes(value) / processes() if processes() > 1 else value


def sum_over_processes(value: Tensor) -> Tensor:
    """Sum of `value` over the processes of a distributed run; `value` itself when there is one process.

    >>> import torch
    >>> sum_over_processes(torch.tensor(2))
    tensor(2)
    """
    return _reduced(value, "SUM")


def max_over_processes(value: Tensor) -> Tensor:
    """Largest `value` of the processes of a distributed run; `value` itself when there is one process.

    >>> import torch
    >>> max_over_processes(torch.tensor(2))
    tensor(2)
    """
    return _reduced(value, "MAX")


def joint_sum(value: Tensor) -> Tensor:
    """`sum_over_processes` that gradient flows through, from the losses of all processes to the values of each.

    >>> import torch
    >>> joint_sum(torch.tensor(2.0))
    tensor(2.)
    """
    return _JointSum.apply(value) if processes() > 1 else value


def of_all_processes(rows: Tensor) -> Tensor:
    """The rows of every process, (M, ...), one process after the other; numbers of rows may differ.

    >>> of_all_processes(torch.tensor([2]))
    tensor([2])
    """
    if processes() == 1:
        return rows
    every: list[Any] = [None] * processes()
    dist.all_gather_object(every, rows.cpu())
    return torch.cat(every).to(rows.device)


def processes() -> int:
    """How many processes a distributed run has; 1 outside of one.

    >>> processes()
    1
    """
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _JointSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return _reduced(value, "SUM")

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _reduced(gradients[0].contiguous(), "SUM")


def _reduced(value: Tensor, operation: Literal["SUM", "MAX"]) -> Tensor:
    if processes() == 1:
        return value
    result = value.clone()
    dist.all_reduce(result, getattr(dist.ReduceOp, operation))
    return result
