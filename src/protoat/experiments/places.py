"""Where files are to be read and written: what cannot be is said before any work, without torch."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

__all__ = ["check_file", "check_folder", "check_is_folder", "check_no_file"]


def check_file(path: Path) -> None:
    """Refuses a file of ``--out`` that cannot be written.

    Raises:
        ValueError: it is a folder, or see `check_folder`.
    """
    if path.is_dir():
        raise ValueError(f"--out {path} is a folder, expected a file to write")
    check_folder(path.parent, f"--out {path}:")


def check_folder(folder: Path, option: str = "--out") -> None:
    """Refuses a folder in which no file can be made, which is tried; nothing is left of that.

    Raises:
        ValueError: it is a file or lies below one, or the system does not let it be written.
    """
    check_no_file(folder, option)
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{option} {folder} cannot be written: {error.strerror}") from error
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
    ValueError: --store ...places.py is a file, expected a folder
    """
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise ValueError(f"{option} {path} is a file, expected a folder")


def check_is_folder(folder: Path) -> None:
    """Refuses what is not a folder that is there.

    Raises:
        ValueError: there is none, or it is a file.
    """
    if folder.is_file():
        raise ValueError(f"{folder} is a file, expected a folder of runs")
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; name the one that holds the runs")
