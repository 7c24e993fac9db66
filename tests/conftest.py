"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def _same_start() -> None:
    """Every test starts from the same random state, on one thread, whatever ran before it."""
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture
def data_root() -> Path:
    """Folder with the real data sets; tests that need it are skipped where it is absent."""
    root = os.environ.get("PROTOAT_DATA")
    if not root or not Path(root).is_dir():
        pytest.skip("real data is absent: set PROTOAT_DATA to a folder that holds it")
    return Path(root)
