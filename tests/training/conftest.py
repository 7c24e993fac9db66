"""Fixtures of the training tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState


@pytest.fixture(scope="session")
def small() -> ModuleType:
    """The module `small.py`, which programs beside it import by name."""
    spec = spec_from_file_location("small", Path(__file__).with_name("small.py"))
    assert spec is not None and spec.loader is not None
    module = sys.modules["small"] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> Iterator[None]:
    """Accelerate remembers settings for the whole process; each test starts without them."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator()
