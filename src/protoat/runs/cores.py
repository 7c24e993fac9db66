"""Which cores a command has for itself, and whether it may choose on how many of them it computes."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_JOBS: ContextVar[int | None] = ContextVar("runs that share the cores", default=None)


def threads_are_set() -> bool:
    """Whether the user has said on how many threads to compute."""
    return any(os.environ.get(name) for name in _VARIABLES)


@contextmanager
def choosing_threads(jobs: int | None = 1) -> Iterator[None]:
    """Within it, what trains and measures chooses its number of threads, see `protoat.runs.threads`.

    Args:
        jobs: commands that run at a time and share the cores; None leaves the number as it is.
    """
    token = _JOBS.set(jobs)
    try:
        yield
    finally:
        _JOBS.reset(token)


def share_of_cores() -> int | None:
    """Most threads that may be chosen here; None where the number is not to be chosen.

    >>> with choosing_threads(jobs=10_000):
    ...     share_of_cores()
    1
    """
    jobs = _JOBS.get()
    return None if jobs is None else max(1, cores() // jobs)


def cores() -> int:
    """Cores that this process may use: those it is bound to, or what the quota of its control group comes to."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(bound, _quota(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")))))


def _quota(groups: Path, root: Path) -> float:
    """Cores that the control groups of a process leave it; infinite where they set no limit.

    Args:
        groups: file with a line ``number:controllers:path`` for each of them.
        root: where they are mounted.
    """
    least = math.inf
    for line in _text(groups).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        home = root / "cpu" if controllers else root
        own = home / path.lstrip("/")
        for folder in (own, *own.parents):
            if controllers:
                limit = [_text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
            else:
                limit = _text(folder / "cpu.max").split()
            if len(limit) == 2 and all(map(str.isdecimal, limit)):  # no limit is "max", or -1
                least = min(least, int(limit[0]) / int(limit[1]))
            if folder == home:
                break
    return least


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
