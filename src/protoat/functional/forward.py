"""One forward of a model, which can neither touch the tensors of its caller nor be touched through its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from torch import Tensor

from protoat.types import Output, as_output

__all__ = ["code_of_model", "output_of"]


def output_of(model: Callable[[Tensor], Any], x: Tensor) -> Output:
    """What a model says of images.

    It gets a copy of the images, so that it may normalise them in place or keep them, and its logits are copied, so
    that it may write the next ones into the same memory.

    Args:
        model: images -> `Output`, logits, or an object with an attribute ``logits``.
        x: (B, ...) images.

    Raises:
        ValueError: none of these came back.

    >>> import torch
    >>> x = torch.ones(1, 2)
    >>> output_of(lambda images: images.sub_(0.5), x).logits, x
    (tensor([[0.5000, 0.5000]]), tensor([[1., 1.]]))
    """
    with code_of_model():
        result = model(x.clone())
    logits, embedding = as_output(result)
    # An embedding with a graph keeps its place in it: another one would add up gradients in another order.
    return Output(logits.clone(), embedding if embedding.requires_grad else embedding.clone())


@contextmanager
def code_of_model() -> Iterator[None]:
    """Marks an error that leaves the context as one of the model's own code; the command line then says so."""
    try:
        yield
    except Exception as error:
        with suppress(AttributeError):
            error.of_model = True  # type: ignore[attr-defined]
        raise
