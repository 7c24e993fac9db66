"""Runs that come with the package: whole, small, and read without a network or a checkout."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

import protoat as pa
from protoat.cli import main
from protoat.evaluation.statistics import Count
from protoat.runs.run import Run
from protoat.runs.zoo import zoo_folder, zoo_names
from protoat.storage.manifest import write_records
from tools.add_to_zoo import MOST_BYTES, ZOO, add

NAMES = zoo_names()


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROTOAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_is_whole_small_measured_and_tells_no_places(name: str) -> None:
    shipped = ZOO / name.removeprefix("zoo:")
    assert sum(path.stat().st_size for path in shipped.iterdir()) <= MOST_BYTES
    run = pa.Run(name)
    run.check()
    assert run.complete
    assert run.state == ""
    assert not run.outdated
    assert run.evaluation is not None
    assert {"clean", "pgd10"} < run.evaluation.attacks.keys()
    assert run.evaluation["aa"].accuracy <= run.evaluation["pgd10"].accuracy
    assert run.audit is None or run.audit.passed
    text = "".join(path.read_text() for path in shipped.glob("*.[jy]*"))
    for machine in (os.uname().nodename, "/tmp", "/home", "/work", "/root"):
        assert machine not in text


def test_what_is_recorded_is_what_the_model_does() -> None:
    run = pa.Run("zoo:digits-2")
    data = pa.regroup(pa.Digits().load("test"), 2)
    found = run.predict(data.images)
    assert Count(int((found.labels == data.labels).sum()), 500) == run.evaluation["clean"].count
    with torch.no_grad():
        assert torch.equal(
            run.model(data.pixels()).logits.argmax(1) == data.labels, run.evaluation["clean"].correct_mask
        )


def test_commands_name_it_as_the_user_does(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert pa.Run("zoo:digits-2").subject().command("audit") == "protoat audit zoo:digits-2"
    assert main(["show", "zoo:digits-2"]) == main(["report", "zoo:digits-2", "--images", "0"]) == 0
    shown, page = capsys.readouterr().out, (tmp_path / "report.html").read_text()
    assert shown.startswith("zoo:digits-2: Digits") and "zoo:digits-2: best.safetensors, 500 images" in shown
    assert "protoat train --config zoo:digits-2 --out digits-2-again" in page
    assert str(tmp_path / "cache") not in shown + page
    assert main(["train", "--config", "zoo:digits-2", "--dry-run", "--epochs", "1"]) == 0


def test_it_is_measured_in_the_cache_and_the_package_stays_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in (ZOO / "digits-2").iterdir()}
    assert main(["evaluate", "zoo:digits-2", "--attacks", "clean", "pgd2"]) == 0
    assert "pgd2" in capsys.readouterr().out
    assert "pgd2" in pa.Run("zoo:digits-2").evaluation.attacks
    assert "pgd2" not in json.loads(before["evaluation.json"])["attacks"]
    assert {path.name: path.read_bytes() for path in (ZOO / "digits-2").iterdir()} == before


def test_training_starts_from_it(tmp_path: Path) -> None:
    short = ["--epochs", "1", "--method.steps", "1", "--schedule", "none", "--regularizer", "none"]
    start = ["--initialise.run", "zoo:digits-2", "--initialise.head", "loaded", "--optimizer.lr", "1e-9"]
    assert main(["train", "--config", "digits-2", *short, *start, "--out", str(tmp_path / "run")]) == 0
    images = pa.Digits().load("test").pixels(slice(40))
    begun, given = pa.Run(tmp_path / "run"), pa.Run("zoo:digits-2")
    same = begun.predict(images).labels == given.predict(images).labels
    assert same.float().mean() > 0.9  # statistics of batch norm have moved


def test_a_name_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("zoo:digit-2", "zoo:../digits-2", "zoo:", "zoo:digits-2/../digits-2"):
        assert main(["show", name]) == 2
        error = capsys.readouterr().err
        assert "is not in the zoo; " in error
        assert error.count("\n") == 1


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PROTOAT_CACHE", str(tmp_path / "file"))
    with pytest.raises(ValueError, match="set PROTOAT_CACHE to a folder with room"):
        zoo_folder("zoo:digits-2")


def test_one_call_adds_a_run(tmp_path: Path) -> None:
    said: list[str] = []
    source = pa.Run("zoo:digits-2")
    facts = json.loads((source.path / "run.json").read_text())
    facts["sessions"][0] |= {"command": ["/home/me/bin/protoat", "train"], "machine": "mine"}
    write_records(source.path, {"run.json": json.dumps(facts).encode()})
    folder = add(source, "again", attacks=["clean"], images=40, audited=None, zoo=tmp_path / "zoo", said=said.append)
    added = Run(folder)
    assert added.complete
    assert added.facts["sessions"][0]["command"] == ["protoat", "train"]
    assert added.facts["sessions"][0]["machine"] == ""
    assert added.evaluation["clean"].count.total == 40
    assert said[0].startswith("clean ")
