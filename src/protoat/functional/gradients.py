"""The gradient of a loss with respect to images."""

from __future__ import annotations

import torch
from torch import Tensor

from protoat.errors import NoGradientError, in_a_line
from protoat.functional.forward import code_of_model

# What autograd says where an operation has no derivative, as those of quantised networks.
_CUT = ("not implemented", "does not require grad", "inference tensor", "not differentiable")


def gradient_of(value: Tensor, images: Tensor, *, retain_graph: bool = False) -> Tensor:
    """Gradient of `value` at `images`; that of nothing else is computed.

    A model with reentrant checkpoints forbids ``autograd.grad``; ``backward`` then does the same.

    Args:
        value: a scalar that was computed from them.
        images: a leaf that requires a gradient.
        retain_graph: the graph of `value` is used again.

    Raises:
        NoGradientError: none comes back.

    >>> x = torch.ones(3, requires_grad=True)
    >>> gradient_of(x.square().sum(), x)
    tensor([2., 2., 2.])
    """
    if not value.requires_grad:
        raise NoGradientError("a detach, no_grad, argmax or rounding to integers cuts it off")
    gradient: Tensor | None
    try:
        with code_of_model():
            if _has_reentrant_checkpoint(value):
                gradient = _by_backward(value, images, retain_graph)
            else:
                (gradient,) = torch.autograd.grad(value, images, retain_graph=retain_graph, allow_unused=True)
    except RuntimeError as error:
        said = in_a_line(error)
        if isinstance(error, NotImplementedError) or any(cut in said for cut in _CUT):
            raise NoGradientError(f"{type(error).__name__}: {said}") from error
        raise
    if gradient is None:
        raise NoGradientError("nothing that it computes from them passes a gradient")
    return gradient


def _has_reentrant_checkpoint(value: Tensor) -> bool:
    """Looked for beforehand, as a try would have freed the graph."""
    waiting, seen = [value.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if node.name() == "CheckpointFunctionBackward":
            return True
        seen.add(node)
        waiting += (earlier for earlier, _ in node.next_functions)
    return False


def _by_backward(value: Tensor, images: Tensor, retain_graph: bool) -> Tensor | None:
    kept, images.grad = images.grad, None
    try:
        value.backward(retain_graph=retain_graph)
        return images.grad
    finally:
        images.grad = kept
