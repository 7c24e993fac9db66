"""``protoat ls`` and ``protoat show`` of runs that did not go to plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from protoat.cli import main
from protoat.experiments.recipe import read_recipe
from protoat.experiments.store import claim


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was stopped in its third epoch, one that was killed in its third, and one with a broken recipe."""
    text = read_recipe("digits-2", ["--epochs", "9"]).text
    for name, third in (("stopped", {"stopped": "robust accuracy fell to 0"}), ("killed", None), ("broken", None)):
        claim(tmp_path / name, text, {"class_names": ["0-4", "5-9"]}, {})
        lines = [{"epoch": epoch, "total": 1.0, "lr": 0.1, "seconds": 1.0} for epoch in (1, 2)]
        lines += [{"epoch": 3, "total": 9.0, "lr": 0.1, "seconds": 1.0, **third}] if third else []
        (tmp_path / name / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (tmp_path / "stopped/last.safetensors").write_bytes(b"weights")
    (tmp_path / "broken/recipe.yaml").write_text("data: [")
    monkeypatch.chdir(tmp_path)
    return Path()


def test_an_epoch_that_was_taken_back_is_not_counted(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", "."]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("│ stopped "))
    assert "2 of 9, stopped early" in row
    assert main(["show", str(runs / "stopped")]) == 0
    assert "3 (taken back)" in capsys.readouterr().out


def test_a_broken_run_is_named_and_the_others_are_listed(
    runs: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["ls", "."]) == 0
    shown = capsys.readouterr().out
    assert "2 of 9, not finished" in next(line for line in shown.splitlines() if line.startswith("│ killed "))
    assert "broken" not in shown
    assert f"left out: {runs / 'broken/recipe.yaml'} is damaged" in caplog.text
    assert main(["show", str(runs / "broken")]) == 2
    assert "recipe.yaml is damaged" in capsys.readouterr().err
