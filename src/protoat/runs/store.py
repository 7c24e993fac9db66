"""Run folders: what makes one the home of a recipe, and what it holds."""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import protoat
from protoat.errors import UserError
from protoat.recipes.fingerprint import differences
from protoat.records.files import read_epochs, read_facts, read_recipe, read_record, recipe_text
from protoat.runs.claims import is_unbegun, mark, run_folders
from protoat.storage import files
from protoat.storage.locks import home
from protoat.storage.manifest import rename_record as rename_listed
from protoat.storage.manifest import write_record as write_listed
from protoat.storage.parsing import parse_yaml
from protoat.training import DiskError
from protoat.training.exported import checked_digest, is_whole

__all__ = [
    "StoredRun",
    "check_data",
    "check_free",
    "claim",
    "class_path",
    "environment",
    "list_runs",
    "origin",
    "read_audit",
    "read_evaluation",
    "read_record",
    "read_run",
    "rename_record",
    "warn_of_damage",
    "write",
    "write_record",
]

logger = logging.getLogger(__name__)

_PACKAGE = Path(__file__).parents[1]
# Whose versions could change a number.
_PACKAGES = ("torchvision", "accelerate", "numpy", "scipy", "scikit-learn", "safetensors", "pillow")


@dataclass(frozen=True)
class StoredRun:
    """What a run folder holds, as plain values.

    Attributes:
        path: the folder.
        recipe: the whole recipe.
        facts: ``run.json``: the shape of the data, and where and how the run was started.
        metrics: a line for each epoch.
        evaluation: ``evaluation.json``, or None.
        complete: whether training has ended.
    """

    path: Path
    recipe: dict[str, Any]
    facts: dict[str, Any]
    metrics: list[dict[str, Any]]
    evaluation: dict[str, Any] | None
    complete: bool

    @property
    def best(self) -> dict[str, Any] | None:
        """Epoch, clean and robust accuracy of the best checkpoint on held-out images.

        Raises:
            ValueError: ``best.json`` is damaged.
        """
        return read_record(self.path / "best.json")

    @property
    def weights(self) -> str:
        """Name of the file of weights that count: the best on held-out images where there are such, else the last."""
        best = "best.safetensors"
        there = os.path.lexists(self.path / best) or (self.is_record and self.best is not None)
        return best if there else "last.safetensors"

    @property
    def outdated(self) -> bool:
        """Whether the evaluation measured weights that training has replaced since."""
        return self.evaluation is not None and not self.is_of(self.evaluation["subject"])

    @property
    def is_record(self) -> bool:
        """Whether the run has ended and its weights were left out; one that was interrupted has checkpoints."""
        if any(os.path.lexists(self.path / name) for name in ("checkpoints", "best.safetensors", "last.safetensors")):
            return False
        last = self.metrics[-1] if self.metrics else {"epoch": 0}
        return self.evaluation is not None or "stopped" in last or last["epoch"] == self.recipe.get("epochs")

    def is_of(self, subject: Mapping[str, Any]) -> bool:
        """Whether the subject of a record is the weights of this run, as far as they are there.

        Raises:
            ValueError: the weights are damaged.
        """
        try:
            return checked_digest(self.path / subject["weights"]) == str(subject.get("sha256"))
        except FileNotFoundError:
            return self.is_record

    @property
    def probe(self) -> dict[str, Any] | None:
        """``probe.json``, or None where there is none of the present weights.

        Raises:
            ValueError: it is damaged.
        """
        record = read_record(self.path / "probe.json")
        return record if record is not None and self.is_of(record["subject"]) else None

    def fact(self, key: str) -> Any:
        """One of `facts` that cannot be done without.

        Raises:
            ValueError: it is not there.
        """
        if key not in self.facts:
            raise UserError(
                f"{self.path / 'run.json'} is damaged or not there: no {key!r}; put it back, or train again"
            )
        return self.facts[key]

    @property
    def pretrains(self) -> bool:
        """Whether the method is one of `protoat.pretraining`, told without building it."""
        return class_path(self.recipe, "method").startswith("protoat.pretraining.")

    @property
    def measuring(self) -> str:
        """The command that measures the run: an encoder pre-trained without labels has no head of its own."""
        return f"protoat evaluate {self.path}{' --linear-probe' * self.pretrains}"

    @property
    def prototype_counts(self) -> list[tuple[int, list[int]]]:
        """(epoch, prototypes of each class) for every epoch of a run with prototypes."""
        facts = [(line["epoch"], line.get("objective", {}).get("prototype_counts")) for line in self.metrics]
        return [(epoch, counts) for epoch, counts in facts if counts is not None]


def class_path(recipe: Mapping[str, Any], key: str) -> str:
    """The class that a recipe chooses for `key`, as it writes it; ``none`` where it chooses none.

    >>> class_path({"method": {"class_path": "protoat.methods.PGDAT"}, "regularizer": None}, "method")
    'protoat.methods.PGDAT'
    """
    choice = recipe.get(key)
    return str(choice.get("class_path", "none") if isinstance(choice, dict) else choice or "none")


def read_run(folder: Path | str) -> StoredRun:
    """What is stored in a run folder.

    Raises:
        ValueError: not a run folder, or a damaged file in it.
    """
    path = Path(folder)
    if not os.path.lexists(path / "recipe.yaml"):
        near = ", ".join(str(run) for run in run_folders(path)[:3])
        reason = "it has no recipe.yaml" if path.exists() else "there is no such folder"
        if (weights := path / "last.safetensors").exists():
            reason += f"; write protoat evaluate --model package.module:builder --weights {weights}"
        raise UserError(f"{path} is not a run folder: {reason}" + (f"; did you mean {near}?" * bool(near)))
    recipe = read_recipe(path)
    for name in ("best.json", "probe.json"):
        read_record(path / name)  # damage is said here, not where it is looked at
    facts, lines = read_facts(path), read_epochs(path)
    _check_agreement(path, recipe, facts, lines)
    run = StoredRun(path, recipe, facts, lines, read_evaluation(path), is_whole(path / "last.safetensors"))
    return replace(run, complete=True) if run.is_record else run


def warn_of_damage(run: StoredRun) -> None:
    """Says that the last weights are there and not whole, which is why the run counts as not finished."""
    path = run.path / "last.safetensors"
    if not run.complete and os.path.lexists(path):
        logger.warning("%s is damaged; the command that trained it writes it again", path)


def read_audit(folder: Path | str) -> dict[str, Any] | None:
    """The ``audit.json`` of a folder, None where there is none.

    Raises:
        ValueError: it is damaged.
    """
    return read_record(Path(folder) / "audit.json")


def read_evaluation(folder: Path | str) -> dict[str, Any] | None:
    """The ``evaluation.json`` of a folder, None where there is none.

    Raises:
        ValueError: it is damaged.
    """
    return read_record(Path(folder) / "evaluation.json")


def list_runs(root: Path | str) -> list[StoredRun]:
    """Every run below a folder, by path; what cannot be read is logged and left out."""
    runs = []
    for folder in run_folders(Path(root)):
        try:
            runs.append(read_run(folder))
            warn_of_damage(runs[-1])
        except UserError as error:
            logger.warning("left out: %s", error)
    return runs


def _check_agreement(
    path: Path, recipe: Mapping[str, Any], facts: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]
) -> None:
    """Refuses a run whose files are not of one run.

    Raises:
        ValueError: names the two.
    """
    epochs = recipe.get("epochs", math.inf)
    last: Mapping[str, Any] = lines[-1] if lines else {"epoch": 0}
    if last["epoch"] > epochs + ("stopped" in last):
        raise UserError(f"{path / 'metrics.jsonl'} has {last['epoch']} epochs, and recipe.yaml says {epochs}")
    counts = last.get("objective", {}).get("prototype_counts")
    classes = facts.get("num_classes")
    if counts is not None and classes not in (None, len(counts)):
        raise UserError(f"{path / 'metrics.jsonl'} is of {len(counts)} classes, and run.json of {classes}")


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
    before = read_run(folder).facts
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
        known = read_run(folder).facts.get("sessions", [])
    marked = mark(recipe_text(folder) if begun else text)
    write_record(folder / "run.json", json.dumps({**facts, **marked, "sessions": [*known, session]}, indent=1))
    if not begun:
        write_record(folder / "recipe.yaml", text)


def write_record(path: Path, content: str | bytes) -> None:
    """Writes a record and its checksum, whole or not at all.

    Raises:
        ValueError: a link, or something else that is no file of ours, is in the way.
        DiskError: it cannot be written; what was there before is untouched.
    """
    with _on_disk(f"write {path}"):
        write_listed(path, content.encode() if isinstance(content, str) else content, within=home(path.parent))


def rename_record(path: Path, name: str) -> None:
    """Gives a record another name in its folder.

    Raises:
        ValueError, DiskError: see `write_record`.
    """
    with _on_disk(f"rename {path}"):
        rename_listed(path, name, within=home(path.parent))


def write(path: Path, content: str | bytes) -> None:
    """Writes what is no record, such as a report, whole or not at all.

    Raises:
        ValueError, DiskError: see `write_record`.
    """
    with _on_disk(f"write {path}"):
        files.write(path, content.encode() if isinstance(content, str) else content, within=home(path.parent))


@contextmanager
def _on_disk(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DiskError(f"could not {what}: {error.strerror or error}; what was there before is intact") from error


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
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if on_cuda else device.type,
        "processes": processes,
    }


def origin() -> dict[str, Any]:
    """What code made a number, and where: versions, commit, name of the machine."""
    return {
        "protoat": protoat.__version__,
        "commit": _commit(),
        "torch": torch.__version__,
        "machine": platform.node(),
    }


def _commit() -> str | None:
    """Commit of the package's own source, marked when files have changed since; None outside its repository."""
    git = ["git", "-C", str(_PACKAGE)]
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
