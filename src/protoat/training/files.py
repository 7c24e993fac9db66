"""Writes that appear whole or not at all, on every process of a run or on none."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator

from protoat.errors import DiskError
from protoat.functional.distributed import mean_over_processes

__all__ = ["sync_folder", "together", "write_by_rename", "write_synced"]


def write_synced(path: Path, content: bytes) -> None:
    """Writes a file and waits until the disk has it."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Waits until the disk has the names in a folder, where the system can do so."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_by_rename(path: Path, content: bytes) -> None:
    """Writes beside `path` and renames, so that a reader sees the old file or the new one."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        write_synced(partial, content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def together(action: Callable[[], None], what: str, accelerator: Accelerator, *, everywhere: bool = False) -> None:
    """Runs a file operation on the main process, or on each; when it fails on one, every process raises.

    Args:
        what: completes "could not ..." in the message.
        everywhere: run it on all processes.

    Raises:
        DiskError: the operation failed on some process.
    """
    failure: OSError | None = None
    if everywhere or accelerator.is_main_process:
        try:
            action()
        except OSError as error:
            failure = error
    failed = mean_over_processes(torch.tensor(float(failure is not None), device=accelerator.device))
    if failed > 0:
        reason = (failure.strerror or str(failure)) if failure is not None else "another process failed"
        raise DiskError(
            f"could not {what}: {reason}; what was saved before is intact, so make room and run again to resume"
        ) from failure
