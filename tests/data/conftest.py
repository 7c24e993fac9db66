"""Fixtures of the data tests."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def official() -> ModuleType:
    """The module `official.py`, which writes data sets in their official formats."""
    spec = spec_from_file_location("official", Path(__file__).with_name("official.py"))
    assert spec is not None and spec.loader is not None
    module = sys.modules["official"] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has a cache of its own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("PROTOAT_CACHE", str(folder))
    return folder
