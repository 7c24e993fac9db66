"""A run by what a user calls it."""

from __future__ import annotations

from pathlib import Path

__all__ = ["run_named"]


def run_named(name: Path, store: Path = Path("runs")) -> Path:
    """The folder of a run.

    Args:
        name: its path; or of a run below the store the name of its folder, or the digest at the end of that.
        store: where it is looked for when there is no such path.

    Returns:
        `name` itself where nothing in the store is called so.

    Raises:
        ValueError: several are called so.
    """
    if name.exists() or len(name.parts) != 1:
        return name
    folders = sorted(path.parent for path in store.rglob("recipe.yaml"))
    found = [folder for folder in folders if str(name) in (folder.name, folder.name.rpartition("-")[2])]
    if len(found) > 1:
        raise ValueError(f"{name} is {' or '.join(map(str, found))}; write the whole path")
    return found[0] if found else name
