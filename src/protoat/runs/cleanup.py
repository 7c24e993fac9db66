"""Removes runs, and checkpoints that complete runs no longer need."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from protoat.errors import UserError, on_disk
from protoat.runs.claims import is_claimed, is_half_removed, run_folders
from protoat.runs.run import Run
from protoat.storage import files
from protoat.storage.locks import LOCK, home, is_at_work, is_free, locked
from protoat.training.weights import check_intact

_AT_REST = 600.0  # seconds; a process could be about to rename what is younger
_DAY = 86400.0
_REPOSITORIES = (".git", ".hg", ".svn")
# Names that only we give; whatever else lies in a store is somebody else's.
_NAMES = "run|best|last|evaluation|audit|probe|job|manifest|trackers"
_RECORD = rf"(recipe\.yaml|metrics\.jsonl|({_NAMES})[\w-]*\.(json|safetensors))"
_PARTIAL = re.compile(rf"\.{_RECORD}\.partial")
_FILE = re.compile(rf"{_RECORD}|\.{_RECORD}\.partial")
_EVENTS = re.compile(r"events\.out\.tfevents\.\S+")
_LOCK = re.compile(r"[0-9a-f]{64}\.lock")
_JOBS = re.compile(r"\d{8}-\d{6}-(.+)-(\d+)")
_CHECKPOINTS = (re.compile(r"\.?\d+|\.partial"), re.compile(r"(common|process-\d+)\.safetensors|state\.json"))
_BATCH = re.compile(r"\.?([0-9a-f]{32}|manifest)\.json(\.partial)?")
_LOG = re.compile(r"[\w.-]+\.(sh|pkl|err|out)")


@dataclass(frozen=True)
class Waste:
    """A file or folder that can go, why, and how many bytes it takes."""

    path: Path
    reason: str
    bytes: int


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; links count for themselves."""
    found = [path] if path.is_symlink() or path.is_file() else path.rglob("*")
    return sum(file.lstat().st_size for file in found if file.is_symlink() or file.is_file())


def check_removable(folder: Path) -> None:
    """Refuses to remove what is no run of ours, holds other runs or a repository, or is being worked on.

    Raises:
        ValueError: says which.
    """
    if folder.is_symlink() or not is_claimed(folder):
        raise UserError(
            f"{folder} is not a run folder of protoat's making, as a run.json in it would say, so it stays; if it is "
            "to go, remove it by hand"
        )
    for name in _REPOSITORIES:
        if (folder / name).exists():
            raise UserError(f"{folder} holds a repository ({name}), so it stays; if it is to go, remove it by hand")
    inner = [path.parent for path in folder.rglob("recipe.yaml") if path.parent != folder]
    if inner:
        raise UserError(f"{folder} holds other runs, such as {inner[0]}; name the runs one by one")
    if home(folder) != files.absolute(folder):
        raise UserError(f"{folder} lies in the run {home(folder)}; name that one")
    _check_at_rest(folder)


def remove(path: Path) -> None:
    """Removes a file or folder, but nothing that a link leads to.

    A run is renamed first, so that no half of it is ever taken for a run, and what shows that it is ours goes last.

    Raises:
        ValueError: a process has begun to work on it.
        DiskError: it cannot be removed.
    """
    if not path.is_symlink():
        path = path.resolve()  # "." has no name to change
    with on_disk(f"remove {path}"):
        if path.is_symlink() or not path.is_dir():
            if not path.name.endswith(".lock") or is_free(path):
                files.remove(path)
                return
            raise UserError(f"a process is at work on {path}, so it stays")
        if is_half_removed(path):
            _remove_run(path)
            return
        whole = is_claimed(path)
        of_a_run = (home(path) / "recipe.yaml").exists()
        with locked(home(path) / LOCK, str(path), wait=False, again=False) if of_a_run else nullcontext():
            if not whole:
                files.remove(path)
                return
            aside = path.with_name(f".{path.name}-{os.getpid()}.removed")
            files.rename(path, aside.name)
        _remove_run(aside)


def _remove_run(folder: Path) -> None:
    with files.open_folder(folder) as opened:
        for name in sorted(opened.names(), key=lambda name: (name == "run.json", name != "recipe.yaml")):
            opened.remove(name)
    files.remove(folder)


def find_waste(store: Path, *, incomplete: bool = False) -> list[Waste]:
    """Checkpoints of complete runs, partial files, halves of removed folders, logs and locks of processes that ended.

    What a process is at work on is left out, as far as locks and the last ten minutes tell, and so is all that does not
    show that it is ours.

    Args:
        store: folder of run folders.
        incomplete: also runs whose training has not ended, and outcomes of measurements that have not.
    """
    runs = _runs(store)
    found = {path: reason for run in runs for path, reason in _of_run(run, incomplete=incomplete)}
    partial = [path for run in runs for path in sorted(run.rglob(".*.partial")) if _PARTIAL.fullmatch(path.name)]
    found |= {
        path: "part of a file" for path in partial if _is_file(path) and not _inside(path, found) and _rests(path)
    }
    removed = [path for path in sorted(store.rglob(".*.removed")) if is_half_removed(path)]
    found |= {path: "half removed" for path in removed if _is_half_a_run(path) and _rests(path)}
    found |= {path: "logs of processes that ended" for path in _names_in(store, ".jobs") if _is_over(path)}
    locks = [path for path in _names_in(store, ".locks") if _LOCK.fullmatch(path.name)]
    locks += [path for run in runs for path in sorted(run.rglob(LOCK))]
    for path in locks:
        with suppress(ValueError):  # none of ours
            if not _inside(path, found) and is_free(path):
                found[path] = "lock that nobody holds"
    return [Waste(path, reason, size(path)) for path, reason in found.items()]


def _names_in(store: Path, name: str) -> list[Path]:
    folder = store / name
    return [] if folder.is_symlink() or not folder.is_dir() else sorted(folder.iterdir())


def _runs(store: Path) -> list[Path]:
    return [run for run in run_folders(store) if ".jobs" not in run.parts and is_claimed(run)]


def _of_run(run: Path, *, incomplete: bool) -> list[tuple[Path, str]]:
    # Weights that are there and whole, so that no checkpoint will be asked for them.
    complete = all(_passes(check_intact, path) for path in {run / "last.safetensors", *run.glob("*.safetensors")})
    if not _passes(_check_at_rest, run) or not (complete or _rests(run)):
        return []
    if not complete and os.path.lexists(run / "last.safetensors"):
        return []  # damaged weights, which their checkpoint can bring back
    if not complete:
        removable = incomplete and _holds_records(run) and _passes(check_removable, run) and not _is_record(run)
        return [(run, "run that has not ended")] if removable else []
    waste, batches = [], run / "evaluation.partial"
    if _holds_only(run / "checkpoints", *_CHECKPOINTS):
        waste.append((run / "checkpoints", "checkpoints of a complete run"))
    if incomplete and _holds_only(batches, _BATCH) and _rests(batches):
        waste.append((batches, "measurement that has not ended"))
    return waste


def _passes(check: Callable[[Path], object], path: Path) -> bool:
    """Whether a check finds nothing to say."""
    try:
        check(path)
    except ValueError:
        return False
    return True


def _check_at_rest(folder: Path) -> None:
    """Refuses a folder that a process is at work on, or whose lock is none of ours.

    Raises:
        ValueError: says which.
    """
    if is_at_work(folder):
        raise UserError(f"a process is at work on {folder}; stop it first")


def _is_record(run: Path) -> bool:
    """Whether it is to be kept; one that cannot be read is for the user to remove."""
    try:
        found = Run(run)
        found.check()
    except ValueError:
        return True
    return found.is_record


def _is_half_a_run(folder: Path) -> bool:
    return not folder.is_symlink() and folder.is_dir() and (is_claimed(folder) or not any(folder.iterdir()))


def _is_over(logs: Path) -> bool:
    """Whether the process that a folder of logs is named after has ended, and nothing there has moved for a day.

    Of a process of another machine that cannot be told from here.
    """
    named = _JOBS.fullmatch(logs.name)
    if named is None or named[1] != platform.node() or not _holds_only(logs, _LOG):
        return False
    return not _runs_here(int(named[2])) and _rests(logs, _DAY)


def _runs_here(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _rests(path: Path, seconds: float = _AT_REST) -> bool:
    """Whether nothing at or below `path` has changed for so long."""
    times = [each.lstat().st_mtime for each in (path, *path.rglob("*")) if each.exists()]
    return max(times, default=0.0) < time.time() - seconds


def _holds_records(run: Path) -> bool:
    folders = {
        "checkpoints": lambda path: _holds_only(path, *_CHECKPOINTS),
        "evaluation.partial": lambda path: _holds_only(path, _BATCH),
        "prototypes": _holds_records,
        "tensorboard": lambda path: _holds_only(path, _EVENTS),
    }
    for path in run.iterdir():
        if path.name in folders:
            ours = not path.is_symlink() and path.is_dir() and folders[path.name](path)
        else:
            ours = _is_file(path) and (path.name == LOCK or _FILE.fullmatch(path.name) is not None)
        if not ours:
            return False
    return True


def _holds_only(folder: Path, names: re.Pattern[str], *below: re.Pattern[str]) -> bool:
    """Whether it is a folder whose files, and those of the folders in it, all have the names that we give them."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    for path in folder.iterdir():
        linked_here = path.is_symlink() and path.resolve().parent == folder.resolve()  # as submitit does
        ours = _holds_only(path, *below) if below else _is_file(path) or linked_here
        if not ours or not names.fullmatch(path.name):
            return False
    return True


def _is_file(path: Path) -> bool:
    return not path.is_symlink() and path.is_file()


def _inside(path: Path, folders: dict[Path, str]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)
