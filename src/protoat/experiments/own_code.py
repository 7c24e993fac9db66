"""Code of the user's own: found in the working directory, never in the folder of a run."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

__all__ = ["is_run_folder", "no_code_from", "working_directory_on_path"]


def is_run_folder(folder: Path) -> bool:
    """Whether a folder holds a run, and not just a recipe that somebody wrote."""
    written = (folder / "run.json").exists() or any(folder.glob("*.safetensors"))
    return written and (folder / "recipe.yaml").exists()


@contextmanager
def working_directory_on_path() -> Iterator[None]:
    """Looks for modules in the working directory too, after all other places, unless that is the folder of a run."""
    if "" in sys.path or is_run_folder(Path()):
        yield
        return
    sys.path.append("")
    try:
        yield
    finally:
        sys.path.remove("")


@contextmanager
def no_code_from(folder: Path) -> Iterator[None]:
    """Refuses, while a recipe of `folder` is read, every module that may have come with it.

    Those are the ones that lie in it, and those of a package that holds it, such as ``runs`` for ``runs/theirs``.
    """
    guard = _Guard(folder)
    sys.meta_path.insert(0, guard)
    try:
        yield
    finally:
        sys.meta_path.remove(guard)


class _Guard:
    """Finds no module, and raises ImportError where others would find one that may have come with a folder."""

    def __init__(self, folder: Path) -> None:
        self.name, self.folder = folder, folder.resolve()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        found = PathFinder.find_spec(name, path, target)
        if found is None:
            return None
        packages = [Path(place).resolve() for place in found.submodule_search_locations or ()]
        files = [*packages, *([Path(found.origin).resolve()] if found.origin else [])]
        inside = any(self.folder in (file, *file.parents) for file in files)
        if inside or any(package in self.folder.parents for package in packages):
            raise ImportError(f"module {name} may have come with {self.name}, whose recipe must not bring code")
        return None
