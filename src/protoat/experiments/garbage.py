"""What can be removed from a store: runs that the user names, and what nobody needs any more."""

from __future__ import annotations

import os
import platform
import shutil
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from protoat.experiments.store import read_run
from protoat.locks import LOCK, is_at_work, is_free
from protoat.training import DiskError

__all__ = ["Waste", "check_removable", "find_waste", "remove", "size"]

_AT_REST = 600.0  # seconds; a process could be about to rename what is younger
_DAY = 86400.0


@dataclass(frozen=True)
class Waste:
    """A file or folder that can go, why, and how many bytes it takes."""

    path: Path
    reason: str
    bytes: int


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; links count for themselves."""
    files = [path] if path.is_symlink() or path.is_file() else path.rglob("*")
    return sum(file.lstat().st_size for file in files if file.is_symlink() or file.is_file())


def check_removable(folder: Path) -> None:
    """Refuses to remove what is no run, holds other runs, or is being worked on.

    Raises:
        ValueError: says which.
    """
    if folder.is_symlink() or not (folder / "recipe.yaml").is_file():
        raise ValueError(f"{folder} is not a run folder, so it stays; a run folder has a recipe.yaml")
    inner = [path.parent for path in folder.rglob("recipe.yaml") if path.parent != folder]
    if inner:
        raise ValueError(f"{folder} holds other runs, such as {inner[0]}; name the runs one by one")
    if is_at_work(folder):
        raise ValueError(f"a process is at work on {folder}; stop it first")


def remove(path: Path) -> None:
    """Removes a file or folder; a folder is renamed first, so that no half of a run is ever taken for a run.

    Raises:
        ValueError: a process has begun to work on it.
        DiskError: it cannot be removed.
    """
    if not path.is_symlink():
        path = path.resolve()  # "." has no name to change
    try:
        if path.is_symlink() or not path.is_dir():
            with FileLock(path, timeout=0) if path.name.endswith(".lock") else nullcontext():
                path.unlink(missing_ok=True)
            return
        aside = path if path.name.endswith(".removed") else path.with_name(f".{path.name}-{os.getpid()}.removed")
        with FileLock(path / LOCK, timeout=0) if (path / "recipe.yaml").exists() else nullcontext():
            path.rename(aside)
        (aside / "recipe.yaml").unlink(missing_ok=True)
        shutil.rmtree(aside)
    except Timeout:
        raise ValueError(f"a process has just begun to work on {path}, so it stays") from None
    except OSError as error:
        raise DiskError(f"could not remove {path}: {error.strerror or error}") from error


def find_waste(store: Path, *, incomplete: bool = False) -> list[Waste]:
    """Checkpoints of complete runs, partial files, halves of removed folders, logs and locks of processes that ended.

    What a process is at work on is left out, as far as locks and the last ten minutes tell.

    Args:
        store: folder of run folders.
        incomplete: also runs whose training has not ended, and outcomes of measurements that have not.
    """
    found = {path: reason for run in _runs(store) for path, reason in _of_run(run, incomplete=incomplete)}
    for pattern, reason in ((".*.partial", "part of a file"), (".*.removed", "half removed")):
        found |= {path: reason for path in sorted(store.rglob(pattern)) if not _inside(path, found) and _rests(path)}
    found |= {path: "logs of processes that ended" for path in sorted(store.glob(".jobs/*")) if _is_over(path)}
    locks = sorted([*store.glob(".locks/*.lock"), *store.rglob(LOCK)])
    found |= {path: "lock that nobody holds" for path in locks if not _inside(path, found) and is_free(path)}
    return [Waste(path, reason, size(path)) for path, reason in found.items()]


def _runs(store: Path) -> list[Path]:
    return sorted(path.parent for path in store.rglob("recipe.yaml") if ".jobs" not in path.parts)


def _of_run(run: Path, *, incomplete: bool) -> list[tuple[Path, str]]:
    complete = (run / "last.safetensors").exists()
    if is_at_work(run) or not (complete or _rests(run)):
        return []
    if not complete:
        return [(run, "run that has not ended")] if incomplete and not _is_record(run) else []
    waste = [(run / "checkpoints", "checkpoints of a complete run")]
    if incomplete and _rests(run / "evaluation.partial"):
        waste.append((run / "evaluation.partial", "measurement that has not ended"))
    return [(path, reason) for path, reason in waste if path.exists()]


def _is_record(run: Path) -> bool:
    """Whether it is to be kept; one that cannot be read is for the user to remove."""
    try:
        return read_run(run).is_record
    except ValueError:
        return True


def _is_over(logs: Path) -> bool:
    """Whether the process that a folder of logs is named after has ended, and nothing there has moved for a day.

    Of a process of another machine that cannot be told from here.
    """
    machine, _, number = logs.name.partition("-")[2].partition("-")[2].rpartition("-")
    here = machine == platform.node() and number.isdigit()
    return here and not _runs_here(int(number)) and _rests(logs, _DAY)


def _runs_here(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _rests(path: Path, seconds: float = _AT_REST) -> bool:
    """Whether nothing at or below `path` has changed for so long."""
    times = [each.lstat().st_mtime for each in (path, *path.rglob("*")) if each.exists()]
    return max(times, default=0.0) < time.time() - seconds


def _inside(path: Path, folders: dict[Path, str]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)
