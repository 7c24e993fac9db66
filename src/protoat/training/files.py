"""File writes that succeed in every process of a run, or in none."""

from __future__ import annotations

from collections.abc import Callable

import torch
from accelerate import Accelerator

from protoat.errors import DiskError
from protoat.functional.distributed import mean_over_processes


def together(action: Callable[[], None], what: str, accelerator: Accelerator, *, everywhere: bool = False) -> None:
    """Runs a file operation on the main process, or on each; when it fails on one, every process raises.

    Args:
        what: completes "could not ..." in the message.
        everywhere: run it on all processes.

    Raises:
        ValueError: something that is no file of ours is in the way.
        DiskError: the operation failed on some process.
    """
    failure: OSError | ValueError | None = None
    if everywhere or accelerator.is_main_process:
        try:
            action()
        except (OSError, ValueError) as error:
            failure = error
    failed = mean_over_processes(torch.tensor(float(failure is not None), device=accelerator.device))
    if failed > 0:
        if isinstance(failure, ValueError):
            raise failure
        reason = "another process failed" if failure is None else failure.strerror or str(failure)
        raise DiskError(
            f"could not {what}: {reason}; what was saved before is intact, so make room and run again to resume"
        ) from failure
