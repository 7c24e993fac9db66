"""Where ``protoat train`` puts a run when it is not told."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from protoat.cli.train import start
from protoat.paper.job import Job


def test_it_is_a_function_of_the_run_and_is_where_tables_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protoat.cli.train.train", lambda recipe, out: SimpleNamespace(stopped=""))

    def usual(*args: str) -> Path:
        return start("protoat train", list(args), "digits")[1]

    folder = usual("--config", "mnist")
    assert folder == Job("mnist", ("mnist",)).folder(Path("runs"))
    assert usual("--config", "mnist", "--checkpoint_every", "7", "--data.root", "elsewhere") == folder
    assert usual("--config", "mnist", "--seed", "1") != folder


def test_other_first_weights_are_another_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("protoat.cli.train.train", lambda recipe, out: SimpleNamespace(stopped=""))
    monkeypatch.chdir(tmp_path)
    folders = []
    for content in (b"a", b"b"):
        Path("weights").write_bytes(content)
        folders.append(start("protoat train", ["--initialise.weights", "weights"], "digits")[1])
    assert folders[0] != folders[1] and all(folder.parent == Path("runs") for folder in folders)
