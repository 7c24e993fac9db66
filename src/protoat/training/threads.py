"""The number of threads that a run was saved with: another one gives the same results but for the last bits."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from protoat.errors import CheckpointError
from protoat.training import checkpoint

logger = logging.getLogger(__name__)


def threads_in(state: Mapping[str, Any]) -> int | None:
    """What the state of a checkpoint says of it; None where it says nothing, as earlier versions."""
    found = state.get("threads")
    return found if type(found) is int and found > 0 else None


def saved_threads(folder: Path) -> int | None:
    """What the newest checkpoint in a folder says of it; None without one."""
    for name in reversed(checkpoint.existing(folder)):
        with suppress(CheckpointError):  # whoever resumes it says so
            return threads_in(checkpoint.load(folder / name, verify=False).state)
    return None


def say_other_threads(state: Mapping[str, Any], device: torch.device) -> None:
    """Says in the log where a run on the CPU goes on with another number than the checkpoint of `state` has."""
    then, now = threads_in(state), torch.get_num_threads()
    if device.type == "cpu" and then not in (None, now):
        logger.warning(
            "saved on %d threads and resumed on %d: the run ends as it would have but for rounding; for the very same "
            "bits write OMP_NUM_THREADS=%d",
            then,
            now,
            then,
        )
