"""What every command takes: quiet and JSON output, and completion in shells."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import protoat as pa
from protoat.cli import _COMMANDS, main
from protoat.cli.completion import script


@pytest.fixture(autouse=True)
def _own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PROTOAT_CACHE", str(tmp_path / "cache"))
    yield
    logging.getLogger("protoat").setLevel(logging.NOTSET)


@pytest.fixture
def document(capsys: pytest.CaptureFixture[str]):
    def run(*words: str, code: int = 0) -> dict:
        capsys.readouterr()
        assert main([*words]) == code
        return json.loads(capsys.readouterr().out)

    return run


def test_an_evaluation_is_one_document(document) -> None:
    found = document("evaluate", "zoo:digits-2", "--attacks", "clean", "--json")
    record = pa.Run("zoo:digits-2").evaluation
    clean = found["evaluation"]["attacks"]["clean"]
    assert (clean["correct"], clean["total"]) == record["clean"].count
    assert clean["per_mode"]["8"]["total"] == record["clean"].per_mode["8"].total
    assert "outcomes" not in json.dumps(found)
    row = found["tables"][0]["rows"][0]
    assert (row["attack"], row["accuracy %"], row["images"]) == ("clean", 96.8, 500)
    assert found["tables"][0]["rows"][-1]["images/s"] is None  # of the worst case, which takes no time
    assert (found["command"], found["exit_code"]) == ("evaluate", 0)


def test_predictions_tables_and_lines_are_kept(document, tmp_path: Path) -> None:
    picture = tmp_path / "a.ppm"
    picture.write_bytes(b"P5 8 8 255 " + bytes(64))
    (row,) = document("predict", "zoo:digits-2", str(picture), "--json")["predictions"]
    assert sum(row["probabilities"].values()) == pytest.approx(1)
    (empty := tmp_path / "empty").mkdir()
    assert document("ls", str(empty), "--json")["lines"] == [f"no runs below {empty}; protoat train makes one"]
    compared = document("compare", "zoo:digits-2", _copy(tmp_path), "--json")
    assert {row["verdict"] for row in compared["tables"][0]["rows"]} == {"no difference shown"}


def _copy(tmp_path: Path) -> str:
    shutil.copytree(pa.Run("zoo:digits-2").path, tmp_path / "copy")
    return str(tmp_path / "copy")


def test_a_mistake_prints_no_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "nowhere", "--json"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1


def test_quiet_leaves_results_and_no_notes(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["evaluate", "zoo:digits-2", "--attacks", "clean", "-q"]) == 0
    assert "96.8" in capsys.readouterr().out
    assert not [record for record in caplog.records if record.levelno < logging.WARNING]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_completes_commands_and_options(shell: str) -> None:
    text = script([shell], ("evaluate", "predict"))
    for word in ("evaluate", "predict", "attacks", "budget-seconds", "batch-size"):
        assert word in text
    if shutil.which(shell):
        assert subprocess.run([shell, "-n"], input=text, text=True, check=False).returncode == 0


def test_bash_completes() -> None:
    asked = 'COMP_WORDS=(protoat {}); COMP_CWORD={}; _protoat; echo "${{COMPREPLY[@]}}"'
    text = script(["bash"], ("evaluate", "predict"))
    cases = (
        ("ev", 1, "evaluate"),
        ("evaluate --att", 2, "--attack-precision --attacks"),
        ("predict --fo", 2, "--format"),
    )
    for words, place, expected in cases:
        asking = text + asked.format(words, place)
        shown = subprocess.run(["bash"], input=asking, text=True, capture_output=True, check=True)
        assert shown.stdout.split()[: len(expected.split())] == expected.split()


def test_another_shell_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["tcsh"], ["bash", "zsh"]):
        assert main(["--completion", *words]) == 2
        assert "write one of bash, zsh, fish" in capsys.readouterr().err
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"protoat {pa.__version__}\n"
    assert "predict" in _COMMANDS
