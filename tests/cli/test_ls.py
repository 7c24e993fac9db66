"""``protoat ls`` and ``protoat show`` of runs that did not go to plan."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path

import pytest

from protoat.cli import main
from protoat.recipes.reading import read_recipe
from protoat.reports.records import records_of
from protoat.reports.sections.summary import summary
from protoat.runs.store import claim
from tests.whole import attacked, edit, weights


def digest(folder: Path) -> str:
    return sha256((folder / "last.safetensors").read_bytes()).hexdigest()


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was stopped in its third epoch, one that was killed in its third, and one with a broken recipe."""
    text = read_recipe("digits-2", ["--epochs", "9"]).text
    for name, third in (("stopped", {"stopped": "robust accuracy fell to 0"}), ("killed", None), ("broken", None)):
        claim(tmp_path / name, text, {"class_names": ["0-4", "5-9"]}, {})
        lines = [{"epoch": epoch, "total": 1.0, "lr": 0.1, "seconds": 1.0} for epoch in (1, 2)]
        lines += [{"epoch": 3, "total": 9.0, "lr": 0.1, "seconds": 1.0, **third}] if third else []
        (tmp_path / name / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    weights(tmp_path / "stopped/last.safetensors")
    edit(tmp_path / "broken/recipe.yaml", "data: [")
    monkeypatch.chdir(tmp_path)
    return Path()


def test_an_epoch_that_was_taken_back_is_not_counted(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", "."]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("│ stopped "))
    assert "2 of 9, stopped early" in row
    assert main(["show", str(runs / "stopped")]) == 0
    assert "3 (taken back)" in capsys.readouterr().out


def test_weights_larger_than_the_memory_allowed_end_nothing(
    runs: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise MemoryError("Cannot allocate memory (os error 12)")

    monkeypatch.setattr("safetensors.safe_open", refused)
    assert main(["ls", "."]) == 0
    said = capsys.readouterr()
    assert "killed" in said.out
    assert "stopped/last.safetensors cannot be opened: it is larger than the memory" in caplog.text + said.err


def test_brackets_in_a_name_are_no_markup(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "stopped").rename(runs / "[draft]")
    (runs / "a[").mkdir()
    (runs / "killed").rename(runs / "a[/b]")
    assert main(["ls", "."]) == 0
    shown = capsys.readouterr().out
    assert "│ [draft] " in shown and "│ a[/b] " in shown


def test_a_probe_does_not_stand_in_for_measuring_a_trained_run(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subject = {"weights": "last.safetensors", "sha256": digest(runs / "stopped"), "data": "Digits", "images": 100}
    heads = {"standard": {"clean": attacked(90, 100)}, "robust": {}}
    record = {"subject": subject, "encoders": {"trained": heads, "random": heads}}
    (runs / "stopped/probe.json").write_text(json.dumps(record))
    assert main(["show", "stopped"]) == 0
    shown = capsys.readouterr().out
    assert "linear heads on last.safetensors" in shown and "not measured; " in shown
    told = str(summary(records_of("stopped")))
    assert "Not measured" in told and "without a head" not in told


def test_a_run_is_shown_and_removed_by_its_name_or_digest(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("mnist-0a1b2c3d", "cifar10-0a1b2c3d"):
        shutil.copytree("stopped", f"runs/{name}")
    assert main(["show", "mnist-0a1b2c3d"]) == 0
    assert capsys.readouterr().out.startswith("runs/mnist-0a1b2c3d: ")
    assert main(["rm", "0a1b2c3d", "--yes"]) == 2
    assert "0a1b2c3d is runs/cifar10-0a1b2c3d or runs/mnist-0a1b2c3d; write the whole" in capsys.readouterr().err
    assert main(["rm", "cifar10-0a1b2c3d", "--yes"]) == 0
    assert main(["show", "0a1b2c3d"]) == 0
    assert main(["show", "0a1b"]) == 2
    assert "0a1b is not a run folder: there is no such folder" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["ls", "gc"])
def test_what_is_no_folder_is_refused_alike(command: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place, message in (("nothere", "there is no folder nothere"), ("afile", "afile is a file, expected a folder")):
        Path("afile").write_text("")
        assert main([command, place]) == 2
        assert message in capsys.readouterr().err


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


def test_an_accuracy_is_listed_with_what_it_was_measured_on(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subject = {"weights": "last.safetensors", "sha256": digest(runs / "stopped"), "data": "Digits", "images": 40}
    record = {
        "subject": {**subject, "threat": {"norm": "linf", "eps": 0.1}},
        "attacks": {"clean": attacked(30, 40)},
    }
    (runs / "stopped/evaluation.json").write_text(json.dumps(record))
    assert main(["ls", "."]) == 0
    shown = capsys.readouterr().out
    assert "last weights, 40 images, linf 0.1:" in shown and "clean 75.0 [" in shown
    assert "also measured" not in shown


def test_what_was_measured_on_other_images_is_told_beside_it(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = attacked(300, 500)
    subject = {"weights": "last.safetensors", "data": "Digits test", "images": 500}
    record = {
        "subject": {**subject, "threat": {"norm": "linf", "eps": 0.1}},
        "attacks": {"clean": entry, "pgd10": entry},
    }
    (runs / "stopped/evaluation-0a1b2c3d.json").write_text(json.dumps(record))
    assert main(["ls", "."]) == 0
    assert "also measured, see protoat show: evaluation-0a1b2c3d.json" in capsys.readouterr().out
    about = "clean, pgd10; last.safetensors, 500 images of Digits test, linf 0.1"
    assert main(["show", "stopped"]) == 0
    assert f"also measured, in evaluation-0a1b2c3d.json: {about}" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["evaluation.json", "best.json", "probe.json"])
def test_a_foreign_record_leaves_out_its_run_only(
    name: str, runs: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (runs / "stopped" / name).write_text("{}")
    assert main(["ls", "."]) == 0
    shown = capsys.readouterr().out
    assert "killed" in shown and "stopped" not in shown
    assert f"left out: {runs / 'stopped' / name} is damaged" in caplog.text
    for command in ("show", "report"):
        assert main([command, "stopped", *(["--out", "x.html"] if command == "report" else [])]) == 2
        error = capsys.readouterr().err
        assert f"stopped/{name} is damaged" in error and error.count("\n") == 1
