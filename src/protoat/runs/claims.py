"""Tells run folders made by protoat from other folders, by the marker in run.json."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from protoat.errors import UserError
from protoat.runs.hub import hub_folder
from protoat.runs.zoo import zoo_folder
from protoat.storage.files import open_folder, read_bytes
from protoat.storage.manifest import MANIFEST, is_manifest
from protoat.storage.parsing import MOST_BYTES, parse_json

#: What stands for a run on a command line, in the help of each command.
A_RUN = "a run: its folder; or its name or digest, below runs; or zoo:NAME, or hf://user/name"
_MARK = "claimed_for"  # SHA-256 of the recipe that the folder was claimed for
_OF_A_RUN = {"num_classes", "shape", "train_images", "sessions"}  # what earlier versions wrote, without a mark
_OF_A_SESSION = {"started", "command", "protoat", "torch", "machine"}
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DIGEST = re.compile(r"[0-9a-f]{6,}")  # at the end of a name; anything shorter is rather a word or a number
_REMOVED = re.compile(r"\..+-\d+\.removed")
_FIRST = ("run.json", "recipe.yaml", MANIFEST)  # the files that a run begins with


def run_folders(root: Path) -> list[Path]:
    """Every folder from `root` on with something called recipe.yaml, if only a link, without what is being removed."""
    found = (Path(folder) for folder, inner, names in os.walk(root) if "recipe.yaml" in (*inner, *names))
    return sorted(folder for folder in found if not is_half_removed(folder))


def find_run(name: Path | str) -> Path:
    """The folder of a run.

    Args:
        name: its path; or of a run below ``runs`` the name of its folder, or the digest at the end of that, which has
            at least six places; or ``zoo:NAME``, see `protoat.runs.zoo`; or ``hf://user/name``, see `protoat.runs.hub`.

    Returns:
        `name` itself where nothing below ``runs`` is called so.

    Raises:
        ValueError: several are called so, or none of the zoo or the Hub.
    """
    if is_elsewhere(name):
        return zoo_folder(str(name)) if str(name).startswith("zoo:") else hub_folder(str(name))
    path = Path(name)
    if path.exists() or len(path.parts) != 1:
        return path
    found = [folder for folder in run_folders(Path("runs")) if str(name) in _names(folder)]
    if len(found) > 1:
        raise UserError(f"{name} is {' or '.join(map(str, found))}; write the whole path")
    return found[0] if found else path


def is_elsewhere(name: Path | str) -> bool:
    """Whether a name stands for a run of the zoo or the Hub, of which the cache has a copy.

    >>> is_elsewhere("zoo:digits-2"), is_elsewhere(Path("hf://user/name")), is_elsewhere("runs/mine")
    (True, True, False)
    """
    return str(name).startswith(("zoo:", "hf:"))


def called(folder: Path) -> str:
    """What commands call a run: ``zoo:NAME`` or ``hf://user/name@commit`` a copy in the cache, any other by its path.

    >>> called(find_run("zoo:digits-2")), called(Path("runs/ours"))
    ('zoo:digits-2', 'runs/ours')
    """
    from protoat.data import cache_folder  # torch takes seconds to import, and runs are found without

    cache = cache_folder().parent
    match folder.relative_to(cache).parts if folder.is_relative_to(cache) else ():
        case ("zoo", _, name):
            return f"zoo:{name}"
        case ("hub", commit, user, name):
            return f"hf://{user}/{name}@{commit}"
    return str(folder)


def _names(folder: Path) -> tuple[str, ...]:
    digest = folder.name.rpartition("-")[2]
    return (folder.name, digest) if _DIGEST.fullmatch(digest) else (folder.name,)


def is_half_removed(folder: Path) -> bool:
    """Whether the name of a folder says that it was being removed.

    >>> is_half_removed(Path("runs/.digits-7.removed"))
    True
    """
    return _REMOVED.fullmatch(folder.name) is not None


def mark(recipe_text: str) -> dict[str, str]:
    """What run.json says of a folder that is claimed for a recipe."""
    return {_MARK: sha256(recipe_text.encode()).hexdigest()}


def is_claimed(folder: Path) -> bool:
    """Whether a folder is one that `claim` has made, so that it may be removed as a whole.

    >>> is_claimed(Path("/nowhere"))
    False
    """
    try:
        facts = parse_json(read_bytes(folder / "run.json", limit=MOST_BYTES))
    except (FileNotFoundError, ValueError):
        return False
    if not isinstance(facts, dict):
        return False
    return bool(_SHA256.fullmatch(str(facts.get(_MARK)))) or _is_of_an_earlier_version(facts)


def _is_of_an_earlier_version(facts: Mapping[str, Any]) -> bool:
    sessions = facts.get("sessions")
    if not facts.keys() >= _OF_A_RUN or not isinstance(sessions, list) or not sessions:
        return False
    return all(isinstance(session, dict) and session.keys() >= _OF_A_SESSION for session in sessions)


def is_unbegun(folder: Path) -> bool:
    """Whether a folder is not there, is empty, or holds only what a process of ours leaves that is killed at first.

    Raises:
        ValueError: it cannot be looked into.
    """
    try:
        with open_folder(folder) as opened:
            names = set(opened.names())
            if "checkpoints" in names:
                with opened.enter("checkpoints") as inner:
                    names -= {"checkpoints"} if {".partial"}.issuperset(inner.names()) else set()
            for name in names:
                opened.check(name)
    except FileNotFoundError:
        return not folder.is_symlink()
    except NotADirectoryError:
        return False
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror or error}") from error
    except ValueError:
        return False
    names -= {".lock", *(f".{name}.partial" for name in _FIRST)}
    if names == {MANIFEST}:
        return is_manifest(folder)
    return not names or ("recipe.yaml" not in names and names <= set(_FIRST) and is_claimed(folder))
