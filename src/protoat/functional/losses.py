"""Per-example losses an attack can maximise: each takes an `Output` and labels and returns shape (B,)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from protoat.types import Output

__all__ = ["cross_entropy", "margin"]


def cross_entropy(output: Output, y: Tensor) -> Tensor:
    """Cross-entropy of the head, shape (B,), in float32 whatever the model computed in.

    >>> import torch
    >>> cross_entropy(Output(torch.zeros(1, 2), torch.zeros(1, 0)), torch.tensor([0]))
    tensor([0.6931])
    """
    return F.cross_entropy(output.logits.float(), y, reduction="none")


def margin(output: Output, y: Tensor) -> Tensor:
    """``max_{j != y} z_j - z_y``, shape (B,): positive exactly where the head is wrong.

    Source: Carlini & Wagner 2017, without confidence bound, so that its gradient never vanishes.

    >>> import torch
    >>> margin(Output(torch.tensor([[2.0, 1.0, 0.5]]), torch.zeros(1, 0)), torch.tensor([0]))
    tensor([-1.])
    """
    logits = output.logits.float()
    own = logits.gather(1, y[:, None]).squeeze(1)
    return logits.scatter(1, y[:, None], float("-inf")).amax(1) - own
