"""Run folders: what makes one the home of a recipe, and what it holds."""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

import protoat
from protoat import files
from protoat.experiments.claims import is_unbegun, mark
from protoat.experiments.initialise import digest
from protoat.experiments.recipe import differing_keys, load_yaml
from protoat.locks import home
from protoat.parsing import no_yaml
from protoat.training import DiskError

__all__ = [
    "StoredRun",
    "check_data",
    "check_free",
    "claim",
    "environment",
    "list_runs",
    "origin",
    "read_audit",
    "read_evaluation",
    "read_record",
    "read_run",
    "write",
]

logger = logging.getLogger(__name__)

_PACKAGE = Path(__file__).parents[1]
# Whose versions could change a number.
_PACKAGES = ("torchvision", "accelerate", "numpy", "scipy", "scikit-learn", "safetensors", "pillow")
# What every record of a kind says, and how to get another one.
_RECORDS = {
    "evaluation": (("subject.weights", "attacks"), " and measure again"),
    "audit": (("subject.weights", "threat.eps", "images", "checks"), " and audit again"),
    "probe": (("subject.weights", "encoders.trained"), " and measure again"),
    "best": (("epoch", "images"), ""),
}


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
        there = (self.path / best).exists() or (self.is_record and self.best is not None)
        return best if there else "last.safetensors"

    @property
    def outdated(self) -> bool:
        """Whether the evaluation measured weights that training has replaced since."""
        return self.evaluation is not None and not self.is_of(self.evaluation["subject"])

    @property
    def is_record(self) -> bool:
        """Whether the run has ended and its weights were left out; one that was interrupted has checkpoints."""
        if (self.path / "checkpoints").exists() or any(self.path.glob("*.safetensors")):
            return False
        last = self.metrics[-1] if self.metrics else {"epoch": 0}
        return self.evaluation is not None or "stopped" in last or last["epoch"] == self.recipe.get("epochs")

    def is_of(self, subject: Mapping[str, Any]) -> bool:
        """Whether the subject of a record is the weights of this run, as far as they are there."""
        weights = self.path / subject["weights"]
        if not weights.exists():
            return self.is_record
        found = weights.stat()
        return _digest(weights, found.st_mtime_ns, found.st_size) == str(subject.get("sha256"))

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
            raise ValueError(
                f"{self.path / 'run.json'} is damaged or not there: no {key!r}; put it back, or train again"
            )
        return self.facts[key]

    @property
    def pretrains(self) -> bool:
        """Whether the method is one of `protoat.pretraining`, told without building it."""
        return str((self.recipe.get("method") or {}).get("class_path")).startswith("protoat.pretraining.")

    @property
    def measuring(self) -> str:
        """The command that measures the run: an encoder pre-trained without labels has no head of its own."""
        return f"protoat evaluate {self.path}{' --linear-probe' * self.pretrains}"

    @property
    def prototype_counts(self) -> list[tuple[int, list[int]]]:
        """(epoch, prototypes of each class) for every epoch of a run with prototypes."""
        facts = [(line["epoch"], line.get("objective", {}).get("prototype_counts")) for line in self.metrics]
        return [(epoch, counts) for epoch, counts in facts if counts is not None]


def read_run(folder: Path | str) -> StoredRun:
    """What is stored in a run folder.

    Raises:
        ValueError: not a run folder, or a damaged file in it.
    """
    path = Path(folder)
    if not (path / "recipe.yaml").is_file():
        near = ", ".join(str(run) for run in _folders(path)[:3])
        reason = "it has no recipe.yaml" if path.exists() else "there is no such folder"
        if (weights := path / "last.safetensors").exists():
            reason += f"; write protoat evaluate --model package.module:builder --weights {weights}"
        raise ValueError(f"{path} is not a run folder: {reason}" + (f"; did you mean {near}?" * bool(near)))
    recipe = _mapping(path / "recipe.yaml")
    if not _has(recipe, "data.class_path"):
        raise ValueError(f"{path / 'recipe.yaml'} is no recipe: it names no data")
    for name in ("best.json", "probe.json"):
        read_record(path / name)  # damage is said here, not where it is looked at
    facts = path / "run.json"
    run = StoredRun(
        path,
        recipe,
        _mapping(facts) if facts.exists() else {},
        _whole_lines(path / "metrics.jsonl"),
        read_evaluation(path),
        (path / "last.safetensors").exists(),
    )
    return replace(run, complete=True) if run.is_record else run


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


def read_record(path: Path) -> dict[str, Any] | None:
    """What a file of results holds, such as ``evaluation.json``; None where it is not there.

    Raises:
        ValueError: it is damaged, or lacks what every one of its kind says.
    """
    if not path.exists():
        return None
    kind = path.stem.partition("-")[0]
    needed, again = _RECORDS[kind]
    try:
        record = _mapping(path)
    except ValueError as error:
        raise ValueError(f"{error}; move it away{again}") from error
    lacking = next((key for key in needed if not _has(record, key)), None)
    if lacking is not None:
        raise ValueError(f"{path} is damaged or of something else: it has no {lacking!r}; move it away{again}")
    return record


def list_runs(root: Path | str) -> list[StoredRun]:
    """Every run below a folder, by path; what cannot be read is logged and left out."""
    runs = []
    for folder in _folders(Path(root)):
        try:
            runs.append(read_run(folder))
        except ValueError as error:
            logger.warning("left out: %s", error)
    return runs


@lru_cache(maxsize=4096)
def _digest(path: Path, _modified: int, _size: int) -> str:
    return digest(path)


def _mapping(path: Path) -> dict[str, Any]:
    """What a YAML or JSON file holds.

    Raises:
        ValueError: it is damaged.
    """
    try:
        content = (load_yaml if path.suffix == ".yaml" else json.loads)(path.read_text())
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {no_yaml(error)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it holds no mapping")  # noqa: TRY004 - one kind of error for a bad file
    return content


def _has(content: Any, key: str) -> bool:
    """Whether a mapping holds a key, with dots between the levels."""
    for part in key.split("."):
        if not isinstance(content, dict) or part not in content:
            return False
        content = content[part]
    return True


def _folders(root: Path) -> list[Path]:
    return sorted(path.parent for path in root.rglob("recipe.yaml"))


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """Lines of a log; a kill may have left a part of one at the end.

    Raises:
        ValueError: another line is damaged.
    """
    lines = path.read_text(errors="replace").splitlines(keepends=True) if path.exists() else []
    return [_line(path, number, line) for number, line in enumerate(lines, start=1) if line.endswith("\n")]


def _line(path: Path, number: int, text: str) -> dict[str, Any]:
    try:
        line: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is damaged in line {number}: {error}; remove that line") from error
    if not _has(line, "epoch"):
        raise ValueError(f"{path} is damaged in line {number}: it has no 'epoch'; remove that line")
    return line


def check_free(folder: Path, recipe_text: str) -> None:
    """Refuses a folder that holds anything but a run of this very recipe.

    Raises:
        ValueError: names the keys that differ.
    """
    stored = folder / "recipe.yaml"
    if stored.exists():
        if different := differing_keys(recipe_text, stored.read_text()):
            raise ValueError(
                f"{folder} holds another recipe ({'; '.join(different)}); choose another --out, or remove the folder"
            )
    elif not is_unbegun(folder):
        raise ValueError(f"{folder} is not empty and holds no run; choose another --out")


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
        raise ValueError(f"the data of {folder} has changed since ({reason}); choose another --out")


def claim(folder: Path, recipe_text: str, facts: dict[str, Any], session: dict[str, Any]) -> None:
    """Makes `folder` the home of a recipe, or adds a session to the run it holds.

    Raises:
        ValueError: see `check_free` and `check_data`.
        DiskError: it cannot be written.
    """
    check_free(folder, recipe_text)
    begun, known = (folder / "recipe.yaml").exists(), []
    if begun:
        check_data(folder, facts)
        known = read_run(folder).facts.get("sessions", [])
    marked = mark((folder / "recipe.yaml").read_text() if begun else recipe_text)
    write(folder / "run.json", json.dumps({**facts, **marked, "sessions": [*known, session]}, indent=1))
    if not begun:
        write(folder / "recipe.yaml", recipe_text)


def write(path: Path, content: str | bytes) -> None:
    """Writes a record whole or not at all.

    Raises:
        ValueError: a link, or something else that is no file of ours, is in the way.
        DiskError: it cannot be written; what was there before is untouched.
    """
    try:
        files.write(path, content.encode() if isinstance(content, str) else content, within=home(path.parent))
    except OSError as error:
        raise DiskError(
            f"could not write {path}: {error.strerror or error}; what was there before is intact"
        ) from error


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
