"""Counts the graphs that are compiled, with a backend that takes a second instead of a minute."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend


def counted(patch: pytest.MonkeyPatch, backend: Any = "aot_eager") -> Any:
    """From here on everything is compiled anew, by this backend; ``frame_count`` of the result says how many graphs."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile

    def cheaply(network: Any, *, mode: str | None = None) -> Any:
        return compiled(network, backend=counter)

    patch.setattr(torch, "compile", cheaply)
    return counter
