"""Checks of output paths before any work, without torch."""

from __future__ import annotations

import stat
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

from protoat.errors import UserError
from protoat.names import printable


def check_file(path: Path) -> None:
    """Refuses a file of ``--out`` that cannot be written.

    Raises:
        ValueError: it is a folder, a link, a pipe or a device, or see `check_folder`.
    """
    found = _mode(path, "--out", links=True)
    if stat.S_ISDIR(found):
        raise UserError(f"--out {path} is a folder, expected a file to write")
    if stat.S_ISLNK(found):
        raise UserError(f"--out {path} is a link; name the file itself")
    if found and not stat.S_ISREG(found):
        raise UserError(f"--out {path} is a pipe or a device, expected a file to write")
    check_folder(path.parent, f"--out {path}:")


def check_folder(folder: Path, option: str = "--out") -> None:
    """Refuses a folder in which no file can be made, which is tried; nothing is left of that.

    Raises:
        ValueError: it is a file or lies below one, or the system does not let it be written.
    """
    check_no_file(folder, option)
    new = [path for path in (folder, *folder.parents) if not _mode(path, option)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"{option} {folder} cannot be written: {error.strerror or error}") from error
    finally:
        for path in new:
            with suppress(OSError):
                path.rmdir()


def check_no_file(folder: Path, option: str) -> None:
    """Refuses a file, or what lies below one, where a folder is expected, there or not.

    Raises:
        ValueError: says which file.

    >>> check_no_file(Path(__file__) / "runs", "--store")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    protoat.errors.UserError: --store ...path_checks.py is a file, expected a folder
    """
    for path in (folder, *folder.parents):
        found = _mode(path, option)
        if found and not stat.S_ISDIR(found):
            raise UserError(f"{option} {path} is a file, expected a folder")


def check_is_folder(folder: Path) -> None:
    """Refuses what is not a folder that is there.

    Raises:
        ValueError: there is none, or it is a file.
    """
    found = _mode(folder, "folder")
    if not found:
        raise UserError(f"there is no folder {folder}; name the one that holds the runs")
    if not stat.S_ISDIR(found):
        raise UserError(f"{folder} is a file, expected a folder of runs")


def check_holds_no_others(where: str, names: Iterable[str], ours: Collection[str], *, of: str, instead: str) -> None:
    """Refuses a place with a file that is none of ours.

    Args:
        where: what is named in the message.
        names: of the files there.
        ours: those that may be written over.
        of: what ours are of.
        instead: what else to choose.

    Raises:
        ValueError: names one of the others.

    >>> check_holds_no_others("served", ["README.md", "notes.txt"], ["README.md"], of="export", instead="folder")
    Traceback (most recent call last):
    protoat.errors.UserError: served holds notes.txt, which is of no export; choose another folder
    """
    if others := sorted(set(names) - set(ours)):
        raise UserError(f"{where} holds {printable(others[0])}, which is of no {of}; choose another {instead}")


def _mode(path: Path, option: str, *, links: bool = False) -> int:
    """What lies there, as of `stat`; 0 where nothing does.

    Args:
        path: to look at.
        option: that names it, for messages.
        links: look at a link itself.

    Raises:
        ValueError: the system does not tell, as of a name that is too long or a loop of links.
    """
    try:
        return (path.lstat() if links else path.stat()).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except OSError as error:
        raise UserError(f"{option} {path} cannot be used: {error.strerror or error}") from error
