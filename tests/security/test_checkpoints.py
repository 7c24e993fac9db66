"""Checkpoints of strangers, whose checksums are right: what they hold is refused in a line, and no other file read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from protoat.cli import main
from protoat.errors import CheckpointError
from protoat.training import checkpoint

RECIPE = [
    *("--config", "digits-2", "--epochs", "1", "--validation_size", "50", "--batch_size", "256"),
    *("--method.steps", "1", "--model", "LeNet", "--schedule", "none"),
]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints, and without what it exported."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", *RECIPE, "--out", str(folder)]) == 0
    for name in ("last.safetensors", "best.safetensors", "last.json", "best.json", "manifest.json"):
        (folder / name).unlink(missing_ok=True)
    return folder


def forged(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    for path in run.glob("checkpoints/*/state.json"):
        state = json.loads(path.read_text())["state"]
        change(state)
        digest = sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
        path.write_text(json.dumps({"sha256": digest, "state": state}))


CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "a history that is a number": lambda state: state["run"].update(history=2**62),
    "lines of no epoch": lambda state: state["run"].update(history=[{}]),
    "a best that is a text": lambda state: state["run"].update(best="<script>"),
    "a best of no epoch": lambda state: state["run"].update(best={}),
    "sums that are texts": lambda state: state["run"].update(sums={"total": "x"}),
    "an update below zero": lambda state: state["run"].update(update=-1),
    "a run that is a list": lambda state: state.update(run=[]),
    "no run": lambda state: state.pop("run"),
    "no identity": lambda state: state["run"].pop("identity"),
    "a learner that is a text": lambda state: state.update(learner="<script>"),
    "an optimizer of numbers": lambda state: state["learner"].update(optimizer=dict.fromkeys("012345678", -1)),
    "files that are a list": lambda state: state.update(files=[1]),
    "a file elsewhere": lambda state: state["files"].update({"../../../../../../etc/passwd": "0" * 64}),
}


@pytest.mark.filterwarnings("ignore:skipping a damaged checkpoint")
@pytest.mark.parametrize("name", CHANGES)
def test_what_no_run_could_go_on_from_is_named(
    begun: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], *, name: str
) -> None:
    shutil.copytree(begun, tmp_path / "run")
    forged(tmp_path / "run", CHANGES[name])
    assert main(["train", *RECIPE, "--out", str(tmp_path / "run")]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert "checkpoint" in line or "state of the run" in line


def test_no_file_outside_of_a_checkpoint_is_opened(
    begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(begun, tmp_path / "run")
    forged(tmp_path / "run", CHANGES["a file elsewhere"])
    opened: list[Path] = []
    monkeypatch.setattr(checkpoint, "sha256_of", lambda path, within: opened.append(path) or "")
    for folder in (tmp_path / "run" / "checkpoints").iterdir():
        with pytest.raises(CheckpointError):
            checkpoint.load(folder)
    assert not any(".." in path.parts for path in opened)


def test_tensors_without_our_note_are_refused(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "common.safetensors")
    with pytest.raises(CheckpointError, match="common"):
        checkpoint.Checkpoint(tmp_path, {"files": {"common.safetensors": ""}}).tensors("common")
