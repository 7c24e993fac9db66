"""Which class logits say."""

from __future__ import annotations

from torch import Tensor

__all__ = ["predicted"]


def predicted(logits: Tensor) -> Tensor:
    """Class of the largest logit, (B,), and -1, which equals no label, where some logits are not finite.

    Without this a row of NaN would count as class 0, and so as right for the images of class 0.

    Args:
        logits: (B, C).

    >>> import torch
    >>> predicted(torch.tensor([[0.0, 1.0], [float("nan"), 1.0]]))
    tensor([ 1, -1])
    """
    return logits.argmax(1).masked_fill(~logits.isfinite().all(1), -1)
