"""``protoat figure`` draws from given runs, or does the runs it needs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from protoat.cli.figure import main
from protoat.cli.outcome import run
from protoat.evaluation import AttackReport, Count
from protoat.evaluation.record import Evaluation, Judged
from protoat.paper.figures import TITLES
from protoat.paper.figures.catalogue import FIGURES, View
from protoat.paper.job import Task
from protoat.paper.launch import Failure
from protoat.plots.plot import Plot
from protoat.recipes.reading import read_recipe
from protoat.runs.run import Run
from protoat.runs.store import claim
from protoat.threats import L2
from tests.whole import edit, epochs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of one epoch, without weights."""
    run_folder = tmp_path / "<i>"
    claim(run_folder, read_recipe("digits-2").text, {}, {})
    edit(run_folder / "metrics.jsonl", epochs(1))
    return run_folder


def test_all_figures_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("figure", main, []) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in shown] == list(TITLES) == list(FIGURES)


def test_a_given_run_is_drawn_into_one_file(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "curves.html"
    assert run("figure", main, ["curves", str(folder), "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    written = out.read_text()
    assert (
        f"{tmp_path}/<i>" not in written
        and f"<p>Run {tmp_path}/&lt;i&gt;: data Digits, classes joined: 2, model " in written
    )
    assert ", epochs 1 of 30, seed 0, trained for linf 0.1." in written
    assert f"Drawn by: protoat figure curves &#39;{tmp_path}/&lt;i&gt;&#39; --out {out}" in written


def test_the_picture_of_modes_is_drawn_by_the_command_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(__file__).parents[2]
    (command,) = re.findall(r"`protoat figure (modes [^`]*) --out docs/modes\.png`", (root / "README.md").read_text())
    args = shlex.split(command)
    monkeypatch.chdir(root)
    assert run("figure", main, [*args, "--out", str(tmp_path / "modes.svg")]) == 0
    drawn = (tmp_path / "modes.svg").read_text()
    ends = [Path(folder).name[-8:] for folder in args[1:]]
    assert len(ends) > 1 and all(f"{end}, worst case" in drawn for end in ends)
    assert not list(root.glob("results/modes-mnist-2-*/*.safetensors")) and (root / "docs/modes.png").exists()


@pytest.mark.parametrize(("kind", "begins"), [("PDF", b"%PDF"), ("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_a_figure_alone_is_written_as_its_ending_says(
    kind: str, begins: bytes, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"curves.{kind}"
    assert run("figure", main, ["curves", str(folder), "--out", str(out)]) == 0
    assert out.read_bytes().startswith(begins) and b"Drawn by" not in out.read_bytes()
    assert run("figure", main, ["curves", str(folder), "--out", str(tmp_path / "curves.jpg")]) == 2
    assert "curves.jpg has to end in .html, .pdf, .svg or .png" in capsys.readouterr().err


def test_a_dry_run_says_what_is_there_and_does_nothing(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def found(task: Task, store: Path) -> Run | None:
        return Run(folder) if "pgd" in task.job.name else None

    monkeypatch.setattr("protoat.paper.laboratory.finished", found)
    out, store = tmp_path / "curves.html", tmp_path / "store"
    options = ["--dry-run", "--out", str(out), "--store", str(store)]
    assert run("figure", main, ["curves", *options]) == 0
    needs, done, command = capsys.readouterr().out.splitlines()
    assert needs == "figure curves needs 2 runs"
    assert done.startswith(f"done: {store}/mnist-2-pgd-smoke-0-")
    assert command.startswith("protoat train --config mnist-2 ") and " && protoat evaluate " in command
    assert run("figure", main, ["2", *options]) == 0
    assert capsys.readouterr().out == "figure 2 needs 0 runs and is drawn from recipes\n"
    assert not out.exists() and not store.exists()


def test_the_framework_needs_no_run_to_be_done(tmp_path: Path) -> None:
    out, store = tmp_path / "2.html", tmp_path / "store"
    assert run("figure", main, ["2", "--out", str(out), "--store", str(store)]) == 0
    assert not store.exists()
    written = out.read_text()
    assert "Budget smoke:" in written and "no reproduction" in written and "SoftTriple" in written


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["curve"], "figure 'curve' is unknown; did you mean 'curves'?"),
        (["curves", "nowhere"], "nowhere is not a run folder"),
        (["1", "--budget", "smok"], "budget 'smok' is unknown; did you mean 'smoke'?"),
        (["eps", "RUN"], "has no evaluation.json; measure it first: protoat evaluate"),
        (["nearest", "RUN"], "weights yet; train it to the end"),
        (
            ["usage", "RUN", "--images", "-1"],
            "--images -1 is negative; write how many test images to look at, or 0 for all",
        ),
        (["curves", "RUN", "--images", "5"], "leave out --images: figure curves does not depend on it"),
        (["3", "--images", "1000"], "leave out --images: figure 3 does not depend on it"),
        (["eps", "--attack", "aa"], "leave out --attack: figure eps does not depend on it"),
        (["4", "--classes", "0-4"], "leave out --classes: figure 4 does not depend on it"),
        (["curves", "RUN", "--budget", "smoke"], "leave out --budget: the runs are given"),
        (["curves", "RUN", "--dry-run"], "leave out --dry-run: the runs are given"),
        (["curves", "RUN", "--executor-options", "time=5"], "leave out --executor-options: the runs are given"),
        (["curves", "--executor-options", "gpu"], "write KEY=VALUE"),
    ],
)
def test_mistakes_are_one_line_and_no_file_appears(
    args: list[str], complaint: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figure.html"
    args = [str(folder) if arg == "RUN" else arg for arg in args]
    assert run("figure", main, [*args, "--out", str(out)]) == 2
    shown = capsys.readouterr().err
    assert complaint in shown and len(shown.splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize("broken", [1, 2])
def test_a_run_that_failed_is_left_out_and_said(
    broken: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(tasks: Sequence[Task], store: Path, **options: object) -> list[Failure]:
        return [Failure(task, "no memory") for task in tasks[:broken]]

    def found(task: Task, store: Path) -> Run | None:
        return None if broken == 2 or "pgd" in task.job.name else Run(folder)

    monkeypatch.setattr("protoat.paper.launch.launch", fails)
    monkeypatch.setattr("protoat.paper.laboratory.finished", found)
    out = tmp_path / "curves.html"
    assert run("figure", main, ["curves", "--out", str(out)]) == broken
    assert "mnist-2-pgd-smoke-0 failed: no memory" in caplog.text
    assert out.exists() == (broken == 1)


@pytest.fixture
def planned(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Task]:
    """Every run is done, measured under what is asked for; holds the tasks that were launched."""
    asked: list[Task] = []

    def launched(tasks: Sequence[Task], store: Path, **options: object) -> list[Failure]:
        asked.extend(tasks)
        return []

    def found(task: Task, store: Path) -> Run:
        assert task.images is not None
        right = torch.arange(task.images) < 7
        entries = {name: AttackReport(Count(7, task.images), {}, {}, {}, right, 1.0) for name in task.attacks}
        subject = Judged("", "Digits test", task.images, data_sha256="0", threat=L2(1))
        return Run(folder).with_evaluation(Evaluation(subject, entries))

    monkeypatch.setattr("protoat.paper.launch.launch", launched)
    monkeypatch.setattr("protoat.paper.laboratory.finished", found)
    return asked


def test_runs_that_are_planned_are_measured_under_the_attack_and_drawn_from_that_measurement(
    planned: list[Task], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    def draw(runs: Sequence[Path], *, attack: str, records: Mapping[Path, Evaluation]) -> Plot:
        drawn.append((list(runs), attack, records))
        return Plot("drawn")

    monkeypatch.setitem(FIGURES, "3", replace(FIGURES["3"], draw=draw))
    out = tmp_path / "3.html"
    args = ["3", "--attack", "pgd5@0.05", "--store", str(tmp_path / "elsewhere"), "--out", str(out)]
    assert run("figure", main, args) == 0
    assert {task.attacks for task in planned} == {("clean", "pgd5@0.05")}
    ((runs, attack, records),) = drawn
    assert (len(runs), attack) == (5, "pgd5@0.05")
    assert set(records[folder].attacks) == {"clean", "pgd5@0.05"}
    assert records[folder].subject.images == 100
    assert f"Drawn by: protoat figure {' '.join(args)}" in out.read_text()


def test_options_reach_what_draws_and_stand_in_the_file(
    planned: list[Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def draw(run: Path, **options: object) -> Plot:
        seen.append(options)
        return Plot("drawn")

    monkeypatch.setitem(FIGURES, "1", replace(FIGURES["1"], draw=draw))
    out = tmp_path / "1.html"
    args = ["1", "--images", "50", "--attack", "aa", "--classes", "0-4", "--out", str(out)]
    assert run("figure", main, args) == 0
    assert seen == [{"images": 50, "attack": "aa", "classes": ("0-4",)}]
    assert f"Drawn by: protoat figure {' '.join(args)}" in out.read_text()


ATTACKED = [name for name, drawing in FIGURES.items() if "attack" in drawing.takes]


@pytest.mark.parametrize(
    ("name", "attack"),
    [
        *((name, "pdg10") for name in ATTACKED),
        *((ATTACKED[0], each) for each in ("clean", "adaptive", "adaptive-combine")),
    ],
)
def test_an_attack_that_cannot_be_shown_is_refused_before_any_run(
    name: str, attack: str, planned: list[Task], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("figure", main, [name, "--attack", attack, "--out", str(tmp_path / "figure.html")]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"protoat figure: error: attack {attack!r} ") and len(shown.splitlines()) == 1
    assert planned == []


def test_a_class_that_is_unknown_is_refused_before_any_run(
    planned: list[Task], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("figure", main, ["1", "--classes", "0-4", "5-8", "--out", str(tmp_path / "figure.html")]) == 2
    assert capsys.readouterr().err == "protoat figure: error: class '5-8' is unknown; did you mean '5-9'?\n"
    assert planned == []


def test_what_a_figure_takes_is_there() -> None:
    assert {option for drawing in FIGURES.values() for option in drawing.takes} <= set(View._fields)
    assert FIGURES["3"].takes == ("attack", "records")


@pytest.mark.slow
def test_every_figure_completes_at_smoke_and_again_does_no_work(tmp_path: Path) -> None:
    store = tmp_path / "runs"
    for name in FIGURES:
        assert run("figure", main, [name, "--store", str(store), "--out", str(tmp_path / f"{name}.html")]) == 0, name
    files = {path: path.stat().st_mtime_ns for path in store.rglob("*.json*")}
    assert len(list(store.glob("*/evaluation.json"))) == 2 + 4 + 5
    for name in FIGURES:
        out = tmp_path / f"{name}.pdf"
        assert run("figure", main, [name, "--store", str(store), "--out", str(out)]) == 0
        assert out.read_bytes().startswith(b"%PDF")
    for name in ("3", "4", "eps"):
        before = (tmp_path / f"{name}.html").read_text()
        assert run("figure", main, [name, "--store", str(store), "--out", str(tmp_path / f"{name}.html")]) == 0
        if name == "4":
            assert (tmp_path / "4.html").read_text() == before
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*.json*")} == files
