"""``--log_with``: training, evaluation and report go to one run of a tracker, which is no part of the run."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from protoat.cli import main
from protoat.cli.train import start
from protoat.recipes.fingerprint import flat
from protoat.runs.probe import probe_run
from protoat.runs.run import Run
from protoat.storage.parsing import parse_yaml
from protoat.storage.places import without_paths, without_places
from protoat.training import tracker_kinds, trackers

SHORT = ["--epochs", "1", "--validation_size", "50", "--method.steps", "1", "--schedule", "none", "--train_size", "128"]


class Book(tracker_kinds.Kind):
    """Writes down what it is told."""

    told: list[tuple[Any, ...]] = []  # noqa: RUF012 - of all there are

    def begin(self) -> None:
        self.known = self.known or "run-7"
        self.told.append(("begin", self.name, self.known, self.settings))

    def log(self, numbers: dict[str, float], step: int | None) -> None:
        self.told.append(("log", numbers, step))

    def keep(self, name: str, files: list[Path]) -> None:
        self.told.append(("keep", name, {path.name: path.read_bytes() for path in files}))

    def finish(self, error: BaseException | None) -> None:
        self.told.append(("end", error))


def test_train_evaluate_and_report_go_to_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Book, "told", [])
    monkeypatch.setitem(tracker_kinds.KINDS, "wandb", Book)
    monkeypatch.setattr(trackers, "is_installed", lambda package: True)
    run, page = tmp_path / "run", tmp_path / "page.html"
    commands = [
        ["train", "--config", "digits-2", *SHORT, "--out", str(run)],
        ["evaluate", str(run), "--attacks", "clean", "pgd1", "--n", "40"],
        ["report", str(run), "--images", "0", "--out", str(page)],
    ]
    for command in commands:
        assert main([*command, "--log_with", "wandb"]) == 0
    kinds = [entry[0] for entry in Book.told]
    assert kinds == ["begin", "log", "keep", "end", "begin", "log", "keep", "end", "begin", "keep", "end"]
    assert {entry[1:3] for entry in Book.told if entry[0] == "begin"} == {("run", "run-7")}
    assert {entry[1] for entry in Book.told if entry[0] == "end"} == {None}
    begin, epoch, records, _, _, measured, record, _, _, html, _ = Book.told
    recipe = dict(flat(parse_yaml((run / "recipe.yaml").read_text())))
    # trackio replaces the settings of a run that goes on by those it is given
    assert [entry[3] for entry in Book.told if entry[0] == "begin"] == 3 * [begin[3]]
    assert begin[3]["method.steps"] == recipe["method.init_args.steps"] == 1
    assert epoch[2] == 1 and epoch[1]["objective/usage/0-4/0"] == Run(run).metrics[0].usage[0][0]
    assert (run / "run.json").is_file()
    assert records[1:2] == ("records",) and set(records[2]) == {"recipe.yaml", "metrics.jsonl", "best.json"}
    of_pgd = json.loads((run / "evaluation.json").read_text())["attacks"]["pgd1"]
    counts = of_pgd["per_mode"]["3"]
    assert measured[1]["evaluation/pgd1/mode/3"] == counts["correct"] / counts["total"]
    kept = json.loads(record[2]["evaluation.json"])
    assert kept == without_paths(without_places(json.loads((run / "evaluation.json").read_text())))
    assert html[1] == "report" and len(html[2]["page.html"]) > 0.9 * page.stat().st_size
    Run(run).check()


def test_a_page_leaves_out_a_damaged_record_but_never_goes_out_beside_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Book, "told", [])
    monkeypatch.setitem(tracker_kinds.KINDS, "wandb", Book)
    monkeypatch.setattr(trackers, "is_installed", lambda package: True)
    run, page = tmp_path / "run", tmp_path / "page.html"
    assert main(["train", "--config", "digits-2", *SHORT, "--out", str(run)]) == 0
    (run / "last.json").write_bytes(b'{"epoch": 1\x15}')
    command = ["report", str(run), "--images", "0", "--out", str(page)]
    assert main([*command, "--log_with", "wandb"]) == 2
    assert f"{run / 'last.json'} is damaged" in capsys.readouterr().err
    assert not page.exists() and not Book.told
    assert main(command) == 0 and page.exists()


def test_what_leaves_names_no_machine_and_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Book, "told", [])
    monkeypatch.setitem(tracker_kinds.KINDS, "wandb", Book)
    monkeypatch.setattr(trackers, "is_installed", lambda package: True)
    monkeypatch.setattr("platform.node", lambda: "secret-host")
    monkeypatch.setattr("sys.argv", ["/opt/secret/bin/protoat", "train"])
    run, page, root = tmp_path / "run", tmp_path / "page.html", str(tmp_path / "my images")
    train = ["train", "--config", "digits-2", *SHORT, "--data.root", root, "--out", str(run)]
    measured = ["evaluate", str(run), "--attacks", "clean", f"transfer:pgd1:{run}", "--n", "40"]
    for command in (train, measured, ["report", str(run), "--images", "0", "--out", str(page)]):
        assert main([*command, "--log_with", "wandb"]) == 0
    written = (run / "evaluation.json").read_text() + page.read_text()
    assert "secret-host" in written and str(tmp_path) in written, "there is something to leave out"
    told = repr([entry for entry in Book.told if entry[0] != "end"])
    for word in ("secret", str(tmp_path), str(Path.home())):
        assert word not in told
    assert "my images" in told and "transfer:pgd1:run" in told


def test_a_measurement_does_not_end_an_interrupted_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Book, "told", [])
    monkeypatch.setitem(tracker_kinds.KINDS, "wandb", Book)
    monkeypatch.setattr(trackers, "is_installed", lambda package: True)
    run = tmp_path / "run"
    assert main(["train", "--config", "digits-2", *SHORT, "--out", str(run)]) == 0
    (run / "last.safetensors").unlink()
    (run / "checkpoints").mkdir(exist_ok=True)
    assert not Run(run).complete
    assert main(["evaluate", str(run), "--attacks", "clean", "--n", "40", "--log_with", "wandb"]) == 0
    kind, error = Book.told[-1]
    assert kind == "end" and isinstance(error, KeyboardInterrupt)


def test_linear_heads_are_told_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Book, "told", [])
    monkeypatch.setitem(tracker_kinds.KINDS, "wandb", Book)
    monkeypatch.setattr(trackers, "is_installed", lambda package: True)
    monkeypatch.setattr("protoat.cli.evaluate.probe_run", partial(probe_run, updates=1))
    run = tmp_path / "run"
    assert main(["train", "--config", "digits-2", *SHORT, "--out", str(run)]) == 0
    command = ["evaluate", str(run), "--linear-probe", "--attacks", "clean", "--n", "40", "--log_with", "wandb"]
    assert main(command) == 0
    begin, numbers, files, end = Book.told
    record = json.loads((run / "probe.json").read_text())
    clean = record["encoders"]["random"]["robust"]["clean"]
    assert begin[1] == "run" and end == ("end", None)
    assert (
        numbers[1]["probe/random/robust/clean/accuracy"] == clean["correct"] / clean["total"] and len(numbers[1]) == 4
    )
    kept = json.loads(files[2]["probe.json"])
    assert files[1] == "probe" and kept == without_paths(without_places(record))


def test_it_is_no_part_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def train(recipe: Any, out: Path, **options: Any) -> SimpleNamespace:
        asked.append((recipe.text, out, options["loggers"]))
        return SimpleNamespace(stopped="")

    monkeypatch.setattr("protoat.cli.train.train", train)
    monkeypatch.setattr(trackers, "is_installed", lambda package: True)
    monkeypatch.chdir(tmp_path)
    for more in ([], ["--log_with", "mlflow", "wandb"]):
        start("protoat train", ["--config", "digits-2", *more], "digits-2")
    (text, folder, plain), (same_text, same_folder, named) = asked
    assert (text, folder) == (same_text, same_folder)
    assert plain is None and named == ["mlflow", "wandb"]


@pytest.mark.parametrize("command", ["train", "pretrain", "evaluate zoo:digits-2", "report zoo:digits-2"])
def test_what_is_missing_is_said_at_once(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trackers, "is_installed", lambda package: False)
    monkeypatch.chdir(tmp_path)
    assert main([*command.split(), "--log_with", "trackio"]) == 2
    assert "trackio is not installed; install it: pip install 'protoat[trackio]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
