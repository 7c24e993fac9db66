"""One process at a time writes into a folder of records."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from filelock import BaseFileLock, FileLock, Timeout

from protoat.training import DiskError

__all__ = ["LOCK", "is_at_work", "is_free", "locked", "on_main", "working_on"]

logger = logging.getLogger(__name__)

LOCK = ".lock"
_PAUSE = 0.2  # seconds between two attempts


@contextmanager
def working_on(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Holds the lock of a folder, as everything does that writes records there or removes them.

    In a distributed run the main process holds the lock for all. The lock is re-entrant.

    Args:
        folder: made where it is not there; it goes again where nothing came to be in it.
        wait: for another process, however long it takes.

    Raises:
        ValueError: another process is at work on the folder.
        DiskError: the lock cannot be made.
    """
    made = False
    with ExitStack() as stack:

        def take() -> None:
            nonlocal made
            made = not folder.exists()
            stack.enter_context(locked(folder / LOCK, str(folder), wait=wait))

        on_main(take)
        try:
            yield
        finally:
            stack.close()
            if made:
                with suppress(OSError):
                    folder.rmdir()  # refused where something is in it


@contextmanager
def locked(path: Path, what: str, *, wait: bool) -> Iterator[None]:
    """Holds a lock file, which the system takes back when its process ends, in whatever way.

    Args:
        path: of the file; it goes with the lock.
        what: is worked on, for messages.
        wait: see `working_on`.

    Raises:
        ValueError, DiskError: see `working_on`.
    """
    path = path.resolve()
    lock = FileLock(path, is_singleton=True)
    try:
        _acquire(lock, path.parent, what, wait=wait)
    except OSError as error:
        raise DiskError(f"could not lock {path}: {error.strerror or error}") from error
    try:
        yield
    finally:
        if lock.lock_counter == 1:  # a waiter that opened the old file sees it unlinked and reopens
            with suppress(OSError):
                path.unlink()
        lock.release()


def _acquire(lock: BaseFileLock, folder: Path, what: str, *, wait: bool) -> None:
    said = False
    while True:
        with suppress(FileNotFoundError):  # the folder went with the process that held it
            folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
                return
            except Timeout:
                if not wait:
                    raise ValueError(f"another process is at work on {what}; let it end, or stop it") from None
                if not said:
                    logger.info("%s: another process is at it; waiting", what)
                    said = True
        time.sleep(_PAUSE)


def is_at_work(folder: Path) -> bool:
    """Whether a process holds the lock of a folder, or of one inside it.

    >>> is_at_work(Path("/nowhere"))
    False
    """
    return any(not is_free(path) for path in folder.rglob(LOCK))


def is_free(lock: Path) -> bool:
    """Whether nobody holds a lock file."""
    try:
        with FileLock(lock, timeout=0):
            return True
    except Timeout:
        return False


def on_main(action: Callable[[], None]) -> None:
    """Does something on the main process; every process raises its error, since none must wait for one that has left.

    Raises:
        ValueError, DiskError: by the action.
    """
    errors: list[Exception | None] = [None]
    if PartialState().is_main_process:
        try:
            action()
        except (ValueError, DiskError) as error:
            errors = [error]
    broadcast_object_list(errors)
    if errors[0] is not None:
        raise errors[0]
