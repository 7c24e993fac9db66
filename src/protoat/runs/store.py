"""The files of a run folder: claims it, writes records, and keeps outcomes until a measurement is whole."""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import protoat
from protoat.errors import UserError, on_disk
from protoat.recipes.fingerprint import differences
from protoat.records.files import check_kept, read_facts, read_recipe, read_recipe_file
from protoat.runs.claims import is_unbegun, mark
from protoat.storage import files
from protoat.storage.locks import home
from protoat.storage.manifest import rename_record as rename_listed
from protoat.storage.manifest import write_record as write_listed
from protoat.storage.parsing import MOST_BYTES, parse_json, parse_yaml

logger = logging.getLogger(__name__)

_INTACT = "; what was there before is intact"
_PACKAGE = Path(__file__).parents[1]
# Whose versions could change a number.
_PACKAGES = ("torchvision", "accelerate", "numpy", "scipy", "scikit-learn", "safetensors", "pillow")


def check_free(folder: Path, text: str) -> None:
    """Refuses a folder that holds anything but a run of this very recipe.

    Raises:
        ValueError: names the keys that differ.
    """
    stored = folder / "recipe.yaml"
    if stored.exists():
        if different := "; ".join(map(str, differences(parse_yaml(text), read_recipe(folder)))):
            raise UserError(f"{folder} holds another recipe ({different}); choose another folder, or remove this one")
    elif not is_unbegun(folder):
        raise UserError(f"{folder} is not empty and holds no run; choose another folder")


def check_data(folder: Path, facts: dict[str, Any]) -> None:
    """Refuses other data than that of a run, once it has begun.

    Raises:
        ValueError: says what has changed.
    """
    before = read_facts(folder)
    # An earlier version knew less; what else lies beside the images may change.
    both = [key for key in facts if key in before and key != "inventory"]
    changed = {key: f"{key} {before[key]} then, {facts[key]} now" for key in both if before[key] != facts[key]}
    if changed.pop("data_sha256", None) and not changed:
        changed["images"] = "as many images, but others"
    if before.get("sessions") and changed:
        reason = "; ".join(changed.values())
        if "class_names" in changed and sorted(before["class_names"]) == sorted(facts["class_names"]):
            reason += "; the classes are in another order: names that are numbers are now sorted as numbers"
        raise UserError(f"the data of {folder} has changed since ({reason}); choose another folder")


def claim(folder: Path, text: str, facts: dict[str, Any], session: dict[str, Any]) -> None:
    """Makes `folder` the home of a recipe, or adds a session to the run it holds.

    Raises:
        ValueError: see `check_free` and `check_data`.
        DiskError: it cannot be written.
    """
    check_free(folder, text)
    begun, known = (folder / "recipe.yaml").exists(), []
    if begun:
        check_data(folder, facts)
        known = read_facts(folder).get("sessions", [])
    marked = mark(read_recipe_file(folder)[0] if begun else text)
    write_record(folder / "run.json", json.dumps({**facts, **marked, "sessions": [*known, session]}, indent=1))
    if not begun:
        write_record(folder / "recipe.yaml", text)


def write_record(path: Path, content: str | bytes) -> None:
    """Writes a record and its checksum, whole or not at all.

    Raises:
        ValueError: a link, or something else that is no file of ours, is in the way.
        DiskError: it cannot be written; what was there before is untouched.
    """
    with on_disk(f"write {path}", more=_INTACT):
        write_listed(path, content.encode() if isinstance(content, str) else content, within=home(path.parent))


def rename_record(path: Path, name: str) -> None:
    """Gives a record another name in its folder.

    Raises:
        ValueError, DiskError: see `write_record`.
    """
    with on_disk(f"rename {path}", more=_INTACT):
        rename_listed(path, name, within=home(path.parent))


def write(path: Path, content: str | bytes) -> None:
    """Writes what is no record, such as a report, whole or not at all.

    Raises:
        ValueError, DiskError: see `write_record`.
    """
    with on_disk(f"write {path}", more=_INTACT):
        files.write(path, content.encode() if isinstance(content, str) else content, within=home(path.parent))


class Partial:
    """A folder with a file for each measured batch, which appears whole or not at all; see `measurement.Saved`.

    Args:
        folder: made with the first batch.
        identity: whose outcomes these are; those of any other model, data or version are never read.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        self.identity = json.dumps([identity, protoat.__version__, torch.__version__], sort_keys=True)
        self._used: set[Path] = set()

    def get(self, key: str) -> tuple[str, float, Sequence[str]] | None:
        """Outcomes, seconds and alarms that were put under this key, or None."""
        path = self._path(key)
        try:
            content = parse_json(files.read_bytes(path, limit=MOST_BYTES))
            check_kept(content)
            kept = {key: value for key, value in content.items() if key != "sha256"}
            if content.get("sha256") != _seal(kept):
                raise UserError("it does not agree with its own checksum")
        except FileNotFoundError:
            return None
        except ValueError as error:
            logger.warning("%s is damaged, so its batch is measured again: %s", path, error)
            return None
        self._used.add(path)
        return kept["outcomes"], kept["seconds"], kept.get("alarms", ())

    def put(self, key: str, outcomes: str, seconds: float, alarms: Sequence[str]) -> None:
        """Keeps the outcomes of a batch.

        Raises:
            DiskError: the file cannot be written.
        """
        path = self._path(key)
        kept = {"outcomes": outcomes, "seconds": seconds, **({"alarms": [*alarms]} if alarms else {})}
        write(path, json.dumps({**kept, "sha256": _seal(kept)}))
        self._used.add(path)

    def clear(self) -> None:
        """Removes what was kept or taken up here, and the folder where nothing else is in it."""
        for path in self._used:
            files.remove(path)
        with suppress(OSError):
            self.folder.rmdir()

    def _path(self, key: str) -> Path:
        return self.folder / f"{sha256((self.identity + key).encode()).hexdigest()[:32]}.json"


def _seal(kept: Mapping[str, Any]) -> str:
    return sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def environment(device: torch.device, processes: int) -> dict[str, Any]:
    """Where and with what a run was started."""
    on_cuda = device.type == "cuda"
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": sys.argv,
        **origin(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "device": torch.cuda.get_device_name(device) if on_cuda else device.type,
        "processes": processes,
    }


def origin() -> dict[str, Any]:
    """What code made a number, and where: versions, commit, threads, name of the machine."""
    return {
        "protoat": protoat.__version__,
        "commit": _commit(_PACKAGE),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.node(),
    }


@cache  # what runs is what was imported
def _commit(package: Path) -> str | None:
    """Commit of a package's source, marked when files have changed since; None outside its repository."""
    git = ["git", "-C", str(package)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", "__init__.py"], check=True, capture_output=True)
        found = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            check=True,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
