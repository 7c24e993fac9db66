"""Memory of attacks, which grows with the batch and not with the number of classes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from . import memory_of_attacks


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not say what memory was used")
def test_attacks_on_large_images_hold_few_copies_of_their_batch() -> None:
    """A Jacobian would be 100 copies."""
    given_back = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, memory_of_attacks.__file__], env=given_back, capture_output=True, text=True, check=True
    )
    copies = json.loads(run.stdout)
    assert copies.keys() == memory_of_attacks.ATTACKS.keys()
    assert {name: held for name, held in copies.items() if not 4 < held < 50} == {}
