"""The predicted class of logits."""

from __future__ import annotations

from torch import Tensor


def predicted(logits: Tensor) -> Tensor:
    """Class of the largest logit, (B,), and -1, which equals no label, where logits say none.

    They say none where one is NaN or positively infinite, or all are negatively infinite; a row of NaN would else count
    as class 0, and so as right for the images of class 0. A single logit of -inf only rules its class out.

    Args:
        logits: (B, C).

    >>> import torch
    >>> predicted(torch.tensor([[0.0, 1.0], [float("nan"), 1.0], [float("-inf"), 1.0]]))
    tensor([ 1, -1,  1])
    """
    # The largest logit is finite exactly where some class is said: NaN passes through the maximum.
    largest, classes = logits.max(1)
    return classes.masked_fill(~largest.isfinite(), -1)
