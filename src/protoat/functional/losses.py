"""Per-example losses an attack can maximise: each takes an `Output` and labels and returns shape (B,)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from protoat.functional.consistency import uniform_cross_entropy
from protoat.functional.precision import at_least_float32
from protoat.types import Output

__all__ = ["STEEP", "cross_entropy", "margin"]

# A lead beyond which the slope of cross-entropy, exp(-lead), is lost in float32.
STEEP = 80.0


def cross_entropy(output: Output, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of the head, shape (B,), in float32 also where the model computed in half precision.

    It is computed as ``log(1 + sum_{j != y} exp(z_j - z_y))``. The usual form has the slope ``p_y - 1`` in the label's
    logit, which rounds to 0 in float32 once the label leads by 17 and is inexact long before, so that a confident model
    would give an attack wrong signs. This form keeps them up to a lead of 80; there it goes on along its tangent, so
    that it never stops rising and its slope does not vanish. With two classes it makes targeted and untargeted sign
    gradients opposite to the last bit.

    With `label_smoothing` s, that share of the target is spread evenly over all classes (Szegedy et al., CVPR 2016).

    >>> cross_entropy(Output(torch.zeros(1, 2), torch.zeros(1, 0)), torch.tensor([0]))
    tensor([0.6931])
    """
    logits = at_least_float32(output.logits)
    own = logits.gather(1, y[:, None])
    others = logits.scatter(1, y[:, None], float("-inf")).logsumexp(1)
    behind = others - own.squeeze(1)
    usual = F.softplus(behind)
    sharp = torch.where(behind < -STEEP, math.exp(-STEEP) * (1 + STEEP + behind), usual)
    if not label_smoothing:
        return sharp
    return (1 - label_smoothing) * sharp + label_smoothing * uniform_cross_entropy(logits)


def margin(output: Output, y: Tensor) -> Tensor:
    """``max_{j != y} z_j - z_y``, shape (B,): positive exactly where the head is wrong.

    Source: Carlini & Wagner 2017, without confidence bound, so that its gradient never vanishes.

    >>> margin(Output(torch.tensor([[2.0, 1.0, 0.5]]), torch.zeros(1, 0)), torch.tensor([0]))
    tensor([-1.])
    """
    logits = at_least_float32(output.logits)
    own = logits.gather(1, y[:, None]).squeeze(1)
    return logits.scatter(1, y[:, None], float("-inf")).amax(1) - own
