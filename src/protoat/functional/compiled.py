"""Calls of a compiled network: one graph serves every size of batch, and a refusal of the compiler is one line."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from torch import Tensor

from protoat.errors import UserError
from protoat.spelling import argument

T = TypeVar("T")


def for_any_batch(compiled: Callable[..., T]) -> Callable[..., T]:
    """Calls what `torch.compile` returned with the number of images left open, so that another one compiles nothing.

    Left to itself, torch.compile takes the first number for fixed and compiles each graph again at the second one,
    which an attack, a step and a validation multiply until it gives up (``torch._dynamo.config.recompile_limit``).

    Args:
        compiled: images (B, ...), and whatever else -> anything. Kernels of few images may still be others.

    Raises:
        ValueError: the returned function is called, and the compiler refuses the network or fails on this machine.

    >>> import torch
    >>> for_any_batch(torch.compile(torch.relu, backend="eager"))(torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """
    from torch import _dynamo  # takes seconds
    from torch._dynamo.exc import TorchDynamoException

    def call(images: Tensor, *more: Any, **named: Any) -> T:
        _dynamo.maybe_mark_dynamic(images, 0)
        try:
            return compiled(images, *more, **named)
        except TorchDynamoException as error:
            said = " ".join(str(error).split("\n\n")[0].split())  # how to get a trace, or a whole log, comes after
            raise UserError(
                f"the network cannot be compiled here: {said}; install a C++ compiler (g++) if one is missing, or "
                f"leave out {argument('compile')}"
            ) from error

    return call


def several_backwards() -> AbstractContextManager[object]:
    """Within it, compiled passes may be gone back through several times, as DeepFool does: none reuses their memory."""
    from torch._functorch import config  # takes a second

    return config.patch(donated_buffer=False)
