"""Cross-entropy of modes over the scores of all prototypes."""

from __future__ import annotations

import torch
from torch import Tensor

from protoat.errors import UserError
from protoat.functional.precision import at_least_float32


def mode_cross_entropy(sub_logits: Tensor, target: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of each example over all prototypes of all classes, where the target is the prototype of its mode.

    Args:
        sub_logits: (B, C, K), minus infinity at places without a prototype.
        target: (B,) int64 prototype of each example, ``class * K + place``; -1 where its mode is unknown.
        label_smoothing: share of the target in [0, 1) that is spread evenly over all prototypes.

    Returns:
        (B,) in float32 at least; 0, without gradient, where the mode is unknown.

    Raises:
        ValueError: shapes that do not fit, or a target where there is no prototype.

    >>> scores = torch.zeros(2, 2, 3)
    >>> mode_cross_entropy(scores, torch.tensor([4, -1])).exp()
    tensor([6., 1.])
    """
    if sub_logits.dim() != 3 or target.shape != sub_logits.shape[:1]:
        raise UserError(
            f"scores of prototypes have shape {tuple(sub_logits.shape)} and targets {tuple(target.shape)}; "
            "expected (B, C, K) and (B,)"
        )
    scores = at_least_float32(sub_logits.flatten(1))
    known, there = target >= 0, ~scores.isneginf()
    own = target.clamp_min(0)[:, None]
    if bool((known & ~there.gather(1, own)[:, 0]).any()):
        raise UserError("the prototype of a mode is not active; a head whose prototypes are modes must not merge them")
    log_share = scores.log_softmax(1)
    loss = -log_share.gather(1, own)[:, 0]
    if label_smoothing:
        mean = torch.where(there, log_share, 0.0).sum(1) / there.sum(1)
        loss = (1 - label_smoothing) * loss - label_smoothing * mean
    return torch.where(known, loss, 0.0)
