"""Lists the pictures of class folders, and the files that are left out with the reason."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from protoat.data.base import UNKNOWN_MODE
from protoat.data.picture import is_picture
from protoat.errors import UserError

_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")


class Picture(NamedTuple):
    """A file with the names of its class and mode."""

    path: Path
    class_name: str
    mode_name: str


def in_order(name: str) -> tuple[bool, Decimal, str]:
    """A key that sorts names which are numbers by value, before all others, which it sorts as text.

    >>> sorted(["b", "10", "2", "a1", "1", "0.5"], key=in_order)
    ['0.5', '1', '2', '10', 'a1', 'b']
    """
    number = _NUMBER.fullmatch(name)
    return number is None, Decimal(name) if number else Decimal(0), name


def pictures(folder: Path, left_out: Counter[str]) -> Iterator[Picture]:
    """The pictures of a folder of classes, class by class and mode by mode.

    Args:
        folder: holds a folder for each class, or pictures alone, which are then one class.
        left_out: what is not read is counted here, by the reason.

    Raises:
        ValueError: a class folder without pictures; a name that is not UTF-8.
    """
    class_folders, beside = children(folder, left_out)
    if not class_folders:
        yield from (Picture(path, folder.name, folder.name) for path in beside)
        return
    left_out["pictures beside the class folders"] += len(beside)
    for class_folder in class_folders:
        name = class_folder.name
        mode_folders, files = children(class_folder, left_out)
        modes = {name: (class_folder, files)}
        if mode_folders:
            modes = {f"{name}/{mode.name}": (mode, _flat(mode, left_out)) for mode in mode_folders}
        if mode_folders and files:
            unknown = f"{name}/{UNKNOWN_MODE}"
            modes[unknown] = class_folder, [*files, *modes.get(unknown, (None, []))[1]]
        for mode_name, (holder, paths) in modes.items():
            if not paths:
                inside = Counter[str]()
                children(holder, inside)
                raise UserError(
                    f"class folder {holder} has no images but {_said(inside)}; add some (png, jpg, bmp, ...) or "
                    "delete it"
                )
            yield from (Picture(path, name, mode_name) for path in paths)


def _flat(mode: Path, left_out: Counter[str]) -> list[Path]:
    folders, files = children(mode, left_out)
    left_out["folders inside a mode"] += len(folders)
    return files


def _said(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items() if count) or "nothing"


def children(folder: Path, left_out: Counter[str]) -> tuple[list[Path], list[Path]]:
    """Folders and pictures in a folder, in order; hidden files, links, pipes and other files are left out.

    Raises:
        ValueError: it cannot be read, or holds a folder whose name is not UTF-8.
    """
    folders, files = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    left_out["hidden files or folders"] += 1
                elif entry.is_symlink():
                    left_out["links, which are not followed"] += 1
                elif entry.is_dir():
                    folders.append(entry.name)
                elif not entry.is_file():
                    left_out["pipes or devices"] += 1
                elif is_picture(entry.name):
                    files.append(entry.name)
                else:
                    left_out[_kind(entry.name)] += 1
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror or error}") from error
    for name in folders:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise UserError(f"the name of folder {os.fsencode(folder / name)!r} is not UTF-8; rename it") from None
    return [folder / name for name in sorted(folders, key=in_order)], [folder / name for name in sorted(files)]


def _kind(name: str) -> str:
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 - of names, of which there may be millions
    return f"{suffix} files" if 1 < len(suffix) <= 8 and suffix.isascii() and suffix.isprintable() else "other files"
