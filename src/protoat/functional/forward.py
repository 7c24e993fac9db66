"""One forward pass, isolated from in-place changes by the model, and the classes that it predicts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor, nn

from protoat.functional.distributed import unwrap_model
from protoat.types import Output, as_output


def output_of(model: Callable[[Tensor], Any], x: Tensor) -> Output:
    """What a model says of images.

    It gets a copy of the images, so that it may normalise them in place or keep them, and its logits are copied, so
    that it may write the next ones into the same memory.

    Args:
        model: images -> `Output`, logits, or an object or a mapping that has them as ``logits``.
        x: (B, ...) images.

    Raises:
        ValueError: none of these came back.

    >>> import torch
    >>> x = torch.ones(1, 2)
    >>> output_of(lambda images: images.sub_(0.5), x).logits, x
    (tensor([[0.5000, 0.5000]]), tensor([[1., 1.]]))
    """
    with code_of_model(), _compiled(model):
        result = model(x.clone())
    logits, embedding = as_output(result)
    # An embedding with a graph keeps its place in it: another one would add up gradients in another order.
    return Output(logits.clone(), embedding if embedding.requires_grad else embedding.clone())


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters are; the CPU where it has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


class _Function(nn.Module):
    """A function in the place of a module."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def as_module(model: Any) -> nn.Module:
    """The network itself, out of a wrapper for several processes; a function becomes a module that calls it.

    Raises:
        TypeError: neither a module nor a function.

    >>> import torch
    >>> as_module(torch.relu)(torch.tensor([-1.0]))
    tensor([0.])
    """
    if isinstance(model, nn.Module):
        return unwrap_model(model)
    if not callable(model):
        raise TypeError(f"the model is a {type(model).__name__}, expected torch.nn.Module or a function of images")
    return _Function(model)


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"The \.grad attribute of a Tensor that is not a leaf", UserWarning)
        yield


def _compiled(model: Any) -> AbstractContextManager[None]:
    """Where a compiled network asks for the gradient of what it is given, which is a copy and has none of its own."""
    return _quiet() if hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) else nullcontext()


@contextmanager
def code_of_model() -> Iterator[None]:
    """Marks an error that leaves the context as one of the model's own code; the command line then says so."""
    try:
        yield
    except Exception as error:
        with suppress(AttributeError):
            error.of_model = True  # type: ignore[attr-defined]
        raise


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
