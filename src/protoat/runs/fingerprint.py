"""The fingerprint of the run in a folder, or of a recipe that may take over weights of one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from protoat.recipes.fingerprint import fingerprint
from protoat.recipes.reading import recipe_from_text
from protoat.records.files import read_recipe, read_start
from protoat.storage.parsing import parse_yaml

DIGITS = 12  # of a fingerprint, at the end of the name of a run's folder
_MOST_STARTS = 8  # runs that start from one another


def fingerprint_of_folder(folder: Path, *, above: tuple[Path, ...] = ()) -> str | None:
    """Fingerprint of the run a folder holds, whatever the folder is called; None where it cannot be told.

    A run that takes over weights has the fingerprint of where they come from in its ``job.json``, or else that run must
    still be where its recipe says. One that finds modes in embeddings of another knows it by its weights, or by
    ``job.json``.

    Args:
        folder: of the run.
        above: folders whose runs start from this one, among which it cannot be.
    """
    path = folder / "recipe.yaml"
    try:
        if folder.resolve() in above or len(above) == _MOST_STARTS:
            return None
        return _of_file(path, path.stat().st_mtime_ns, above)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):  # the last one of a loop of links
        return None  # no run, or a damaged one, which `list_runs` names


@lru_cache(maxsize=4096)
def _of_file(path: Path, _modified: int, above: tuple[Path, ...]) -> str | None:
    folder = path.parent
    return fingerprint_of_recipe(read_recipe(folder), read_start(folder), above=(*above, folder.resolve()))


def fingerprint_of_recipe(
    content: Mapping[str, Any], start: str | None = None, *, above: tuple[Path, ...] = ()
) -> str | None:
    """Fingerprint of the run of a recipe; None where it takes over weights of which it cannot be told what they are.

    Args:
        content: plain values of the recipe, which an earlier version may have written.
        start: fingerprint of the run that it starts from, where it is known: its weights or, without `initialise`, its
            embeddings. Else that of the run which the recipe names is taken.
        above: see `fingerprint_of_folder`.
    """
    choice = content.get("initialise")
    own = recipe_from_text(yaml.safe_dump({**content, "initialise": None})).text  # a later version has more keys
    complete = {**parse_yaml(own), "initialise": choice}
    if choice is not None and start is None and choice["run"] is not None:
        start = fingerprint_of_folder(Path(choice["run"]), above=above)
    if choice is None:
        encodes = ((complete.get("modes") or {}).get("init_args") or {}).get("encoder") is not None
        return fingerprint(complete, encoder=start if encodes else None)
    return None if start is None else fingerprint(complete, start)
