"""A run by what a user calls it."""

from __future__ import annotations

import re
from pathlib import Path

from protoat.errors import UserError
from protoat.runs.claims import run_folders

__all__ = ["run_named"]

_DIGEST = re.compile(r"[0-9a-f]{6,}")  # anything shorter is rather a word or a number


def run_named(name: Path) -> Path:
    """The folder of a run.

    Args:
        name: its path; or of a run below ``runs`` the name of its folder, or the digest at the end of that, which has
            at least six places.

    Returns:
        `name` itself where nothing below ``runs`` is called so.

    Raises:
        ValueError: several are called so.
    """
    if name.exists() or len(name.parts) != 1:
        return name
    found = [folder for folder in run_folders(Path("runs")) if str(name) in _names(folder)]
    if len(found) > 1:
        raise UserError(f"{name} is {' or '.join(map(str, found))}; write the whole path")
    return found[0] if found else name


def _names(folder: Path) -> tuple[str, ...]:
    digest = folder.name.rpartition("-")[2]
    return (folder.name, digest) if _DIGEST.fullmatch(digest) else (folder.name,)
