"""Fixtures of the tests of what comes from elsewhere."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def at_rest() -> Callable[[Path], None]:
    """Makes all of a folder two days old, as it is for `protoat gc`; links themselves, not what they lead to."""

    def age(folder: Path) -> None:
        then = time.time() - 2 * 86400
        for path in [folder, *folder.rglob("*")]:
            os.utime(path, (then, then), follow_symlinks=False)

    return age
