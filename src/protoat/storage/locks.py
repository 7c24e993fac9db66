"""The lock of a run folder: one writing process at a time; and what one process does there for all."""

from __future__ import annotations

import logging
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import gather_object
from filelock import BaseFileLock, FileLock, Timeout

from protoat.errors import UserError, on_disk
from protoat.storage.files import Folder, absolute, open_folder, open_to_read

logger = logging.getLogger(__name__)

LOCK = ".lock"
_PAUSE = 0.2  # seconds between two attempts
_ATTEMPTS = 5  # at a folder that goes again and again
_RESUMES = "; what was saved before is intact, so make room and run again to resume"
_MARKER = re.compile(rb"\d+\n[^\n]+\n")  # what filelock writes where the system has no locks of its own


def home(folder: Path) -> Path:
    """The run folder that a folder lies in, such as ``run`` of ``run/prototypes``; else the folder itself.

    >>> home(Path("/nowhere/run"))
    PosixPath('/nowhere/run')
    """
    folder = absolute(folder)
    runs = [parent for parent in folder.parents if _is_run(parent)]
    return runs[-1] if runs else folder


def _is_run(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("recipe.yaml", "run.json"))


@contextmanager
def working_on(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Holds the lock of a run folder, as everything does that writes into it or removes it.

    In a distributed run the main process holds the lock for all. The lock is re-entrant.

    Args:
        folder: a run folder, or a folder in one, which has the same lock. A run folder is made where it is not there,
            and goes again where nothing came to be in it.
        wait: for another process, however long it takes.

    Raises:
        ValueError: another process is at work on the folder, or its lock is no file of ours.
        DiskError: the lock cannot be made.
    """
    made = False
    with ExitStack() as stack:

        def take() -> None:
            nonlocal made
            made = not folder.exists()
            if not made:
                with open_folder(folder, within=home(folder)):
                    pass  # a link in a run folder is refused
            stack.enter_context(locked(home(folder) / LOCK, str(folder), wait=wait))

        on_main(take, f"lock {folder}", more="")
        try:
            yield
        finally:
            stack.close()
            if made:
                with suppress(OSError):
                    folder.rmdir()  # refused where something is in it


@contextmanager
def locked(path: Path, what: str, *, wait: bool, again: bool = True) -> Iterator[None]:
    """Holds a lock file, which the system takes back when its process ends, in whatever way.

    Args:
        path: of the file; it goes with the lock.
        what: is worked on, for messages.
        wait: see `working_on`.
        again: whether this process may hold it already.

    Raises:
        ValueError, DiskError: see `working_on`.
    """
    path = Path(os.path.realpath(path.parent)) / path.name  # `resolve` raises where links go round
    lock = FileLock(path, is_singleton=again)
    with on_disk(f"lock {path}"):
        _acquire(lock, path, what, wait=wait)
    try:
        yield
    finally:
        try:
            if lock.lock_counter == 1:  # a waiter that opened the old file sees it unlinked and reopens
                with suppress(OSError, ValueError), open_folder(path.parent) as folder:
                    _check_ours(folder, path.name)
                    folder.remove(path.name)
        finally:
            lock.release()


def _acquire(lock: BaseFileLock, path: Path, what: str, *, wait: bool) -> None:
    said, attempts = False, 0
    while True:
        try:
            with open_folder(path.parent, make=True) as folder:
                _check_ours(folder, path.name)
            try:
                lock.acquire(timeout=0)
                return
            except Timeout:
                if not wait:
                    raise UserError(f"another process is at work on {what}; let it end, or stop it") from None
                if not said:
                    logger.info("%s: another process is at it; waiting", what)
                    said = True
        except FileNotFoundError:  # the folder went with the process that held it
            attempts += 1
            if attempts == _ATTEMPTS:
                raise
        time.sleep(_PAUSE)


def _check_ours(folder: Folder, name: str) -> None:
    """Refuses a lock file that a process of ours has not made, before it is opened or removed.

    Raises:
        ValueError: it is a link, no regular file, or holds something.
    """
    found = folder.status(name)
    if found is None or (stat.S_ISREG(found.st_mode) and not found.st_size):
        return
    path = folder.path / name
    with open_to_read(path) as file:  # which refuses a link
        if not _MARKER.match(file.read(1000)):
            raise UserError(f"{path} holds something, so it is no lock of ours; move it away")


def is_at_work(folder: Path) -> bool:
    """Whether a process holds the lock of a folder, or of one inside it.

    Raises:
        ValueError: a lock is no file of ours.

    >>> is_at_work(Path("/nowhere"))
    False
    """
    holding = [Path(path) for path, folders, files in os.walk(folder) if LOCK in folders + files]
    return any(not is_free(path / LOCK) for path in holding)


def is_free(lock: Path) -> bool:
    """Whether nobody holds a lock file.

    Raises:
        ValueError: it is no file of ours, or cannot be opened.
    """
    try:
        with open_folder(lock.parent) as folder:
            _check_ours(folder, lock.name)
            with FileLock(lock, timeout=0):
                return True
    except Timeout:
        return False
    except FileNotFoundError:
        return True
    except OSError as error:
        raise UserError(f"{lock} cannot be opened: {error.strerror or error}") from error


def on_main(action: Callable[[], object], what: str, *, more: str = _RESUMES, everywhere: bool = False) -> None:
    """Works on files in the main process, or in each; every process raises its error, since none must wait for another.

    Args:
        action: what is done.
        what: completes "could not ..." where the system refuses it.
        more: follows the reason.
        everywhere: do it in all processes; the first error counts.

    Raises:
        ValueError: by the action.
        DiskError: the system refuses it in some process.
    """
    failure: ValueError | None = None
    if everywhere or PartialState().is_main_process:
        try:
            with on_disk(what, more=more):
                action()
        except ValueError as error:
            failure = error
    for found in gather_object([failure]):
        if found is not None:
            raise found
