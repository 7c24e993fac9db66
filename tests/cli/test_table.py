"""``protoat table``: it does what is missing, prints it, and does nothing twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from protoat.cli import main

ONE_ROW = ("7", "--rows", "2/2", "--columns", "clean", "prototypes")


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command in a folder of its own; returns what it prints."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str, code: int = 0) -> str:
        assert main(["table", *args]) == code
        out, err = capsys.readouterr()
        return err if code == 2 else out

    return run


def state(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_without_a_number_all_tables_are_listed(table) -> None:
    lines = table().splitlines()
    assert [line.split()[:3] for line in lines] == [["protoat", "table", str(number)] for number in range(1, 12)]


def test_a_dry_run_prints_commands_and_writes_nothing(table, tmp_path: Path) -> None:
    shown = table(*ONE_ROW, "--dry-run")
    assert "│ 2/2 │        78.48 │           — │" in shown
    (command,) = [line for line in shown.splitlines() if line.startswith("protoat train ")]
    assert "--regularizer.prototypes_per_class 2 --regularizer.merge_threshold 0" in command
    assert command.count("--epochs ") == 1 and "--epochs 2" in command
    assert command.endswith(" --attacks clean --n 100")
    assert "Not a reproduction" in " ".join(shown.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "begins"), [("t.tex", "% "), ("t.md", "**Table 7"), ("t.csv", "table,row")])
def test_the_name_of_the_file_says_the_format(table, tmp_path: Path, name: str, begins: str) -> None:
    table(*ONE_ROW, "--dry-run", "--out", name)
    assert (tmp_path / name).read_text().startswith(begins)
    table(*ONE_ROW, "--dry-run", "--out", name, "--format", "terminal")
    assert "│ 2/2 │" in (tmp_path / name).read_text()


def test_what_is_missing_is_done_once(table, tmp_path: Path) -> None:
    shown = table(*ONE_ROW)
    assert "│ 2/2 │        78.48 │" in shown
    assert "— │" not in shown
    (metrics,) = (tmp_path / "runs").glob("*/metrics.jsonl")
    used = json.loads(metrics.read_text().splitlines()[-1])["objective"]["in_use"]
    assert f" {used[0]}/{used[1]} │" in shown.split("│ 2/2 │")[1].splitlines()[0]
    before = state(tmp_path)
    assert table(*ONE_ROW) == shown
    assert state(tmp_path) == before
    assert "78.48" in table(*ONE_ROW, "--format", "markdown", "--dry-run")
    assert table(*ONE_ROW, "--format", "csv", "--out", "seven.csv") == "table 7 is in seven.csv\n"
    assert (tmp_path / "seven.csv").read_text().count("\n") == 3
    more = table("7", "--rows", "2/2", "--columns", "pgd10", "--format", "csv")
    assert more.splitlines()[1].startswith("7,2/2,PGD10,CIFAR10-2,ours-2-2,pgd10,accuracy,False,0,")
    assert len(list((tmp_path / "runs").glob("*/recipe.yaml"))) == 1


def test_one_row_fails_and_the_rest_goes_on(table, tmp_path: Path) -> None:
    smoke = (
        "{data: {class_path: Digits}, augment: {padding: 0, flip: false}, groups: none, epochs: 1, batch_size: 256, "
    )
    smoke += "model: {class_path: LeNet, init_args: {mean: none, std: none}}, validation_size: 0, schedule: none}"
    (tmp_path / "own.yaml").write_text(f"about: ten classes\nimages: 50\ntrain: {smoke}\n")
    args = ("7", "--rows", "2/3", "ours", "--columns", "clean", "--budget", "own.yaml")
    assert main(["table", *args, "--format", "csv", "--out", "own.csv"]) == 1
    lines = (tmp_path / "own.csv").read_text().splitlines()
    assert lines[1].startswith("7,2/3,Clean,CIFAR10-2,ours-2-3,clean,accuracy,False,0,,,,,")
    assert ",50," in lines[2]


def test_a_failed_row_is_named(table, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "own.yaml").write_text(
        "about: no images\ntrain: {data: {class_path: Digits}, groups: none, augment: {padding: 0, flip: false}}\n"
    )
    shown = table(*ONE_ROW, "--budget", "own.yaml", code=1)
    assert "cifar10-2-ours-2-2-own-0 failed: " in caplog.text
    assert "— │" in shown
    assert "protoat train --config cifar10-2" in shown


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["12"], "table '12' is unknown"),
        (["2", "--budget", "smok"], "budget 'smok' is unknown; did you mean 'smoke'"),
        (["2", "--rows", "fats"], "--rows 'fats' is unknown in this table; did you mean 'Fast'"),
        (["2", "--seeds", "1", "1"], "name each seed once"),
        (["7", "--rows", "2/2", "--dry-run", "--jobs", "0"], "jobs=0 must be at least 1"),
        (["2", "--dry-run", "--executor-options", "partition=gpu"], "executor local takes no options"),
        (["2", "--executor-options", "gpu"], "write KEY=VALUE"),
        (["2", "--seeds", "0", "-1"], "seeds=-1 is outside 0 to 2**63 - 1"),
        (["2", "--columns", "MNIST", "PGD20"], "--columns 'PGD20' is unknown"),
        (
            ["3", "--columns", "MNST"],
            "write one of CIFAR10-2, CIFAR100-10, Clean, PGD10, PGD10 at 8/255, Tiny ImageNet",
        ),
        (["2", "--columns", "CIFAR10", "AutoAttack"], "--columns CIFAR10 AutoAttack: none in this table is both"),
        (["2", "--out", "."], "--out . is a folder, expected a file to write"),
        (["2", "--out", "own.yaml/2.tex"], "own.yaml is a file, expected a folder"),
        (["2", "--store", "own.yaml"], "--store own.yaml is a file, expected a folder"),
        (["2", "--budget", "own.yaml"], "own.yaml, train: 'epocs' is unknown; did you mean 'epochs'?"),
        (["2", "--format", "html"], "format"),
    ],
)
def test_mistakes_are_one_line(table, tmp_path: Path, args: list[str], message: str) -> None:
    (tmp_path / "own.yaml").write_text("about: a typing error\ntrain: {epocs: 1}\n")
    error = table(*args, code=2)
    assert [path.name for path in tmp_path.iterdir()] == ["own.yaml"]
    assert message in error
    assert error.startswith("protoat table: error: ")
    assert error.count("\n") == 1
