"""A run that an earlier version was interrupted in is still shown, resumed, measured and compared.

``data/interrupted-run`` was trained for 2 of 4 epochs and measured at commit c959163; ``data/whole-metrics.jsonl`` is
of the same run there without a break.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from protoat.cli import main
from protoat.runs.fingerprint import fingerprint_of_folder
from protoat.runs.run import Run

DATA = Path(__file__).parent / "data"
TRUST = ["--trust", "tiny_network.TinyNetwork"]


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run, where its network can be imported."""
    monkeypatch.syspath_prepend(DATA)
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(DATA / "interrupted-run", tmp_path / "old"))


def test_it_is_read(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(old, trust=["tiny_network.TinyNetwork"])
    assert (run.progress, run.state, run.complete) == ("2 of 4", "not finished", False)
    assert run.class_names == ["0-4", "5-9"]
    assert run.recipe.seed == 3 and run.model.hidden.weight.shape == (8, 64)
    assert run.weights().sha256.startswith("64a2f8c4")
    assert main(["show", str(old)]) == 0
    said = capsys.readouterr().out
    assert "PGDAT" in said and "worst case" in said and "not finished" in said


def test_it_keeps_its_fingerprint(old: Path) -> None:
    assert fingerprint_of_folder(old) is None  # code that nobody trusts
    recipe = (old / "recipe.yaml").read_text().replace("tiny_network.TinyNetwork", "protoat.models.LeNet")
    (old / "manifest.json").unlink()
    (old / "recipe.yaml").write_text(recipe)
    assert fingerprint_of_folder(old) == "4a6a4cd0dff0dd76ea646f4c4aecacdc7eb2d85443354843db0d4a54be981d2b"


def test_it_is_resumed_as_if_it_had_never_stopped_and_compared(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = Path(shutil.copytree(old, old.parent / "before"))
    assert main(["train", "--config", str(old / "recipe.yaml"), "--out", str(old), *TRUST]) == 0
    expected = [json.loads(line) for line in (DATA / "whole-metrics.jsonl").read_text().splitlines()]
    found = Run(old).metrics
    assert [line.epoch for line in found] == [1, 2, 3, 4]
    for line, other in zip(found, expected, strict=True):
        assert line.total == pytest.approx(other["total"], rel=1e-4)
        assert line.held_out is not None
        held_out = {**other["validation"], "worst_mode": None, "grouped_by": "mode"}
        assert vars(line.held_out) == pytest.approx(held_out, abs=0.02)
    attacks = ["--attacks", "clean", "fgsm", "pgd2", "--n", "60"]
    assert main(["evaluate", str(old), "--weights", "last", *attacks, *TRUST]) == 0
    capsys.readouterr()
    assert main(["compare", str(before), str(old)]) == 0
    said = capsys.readouterr().out
    assert "best.safetensors" in said and "last.safetensors" in said and "pgd2" in said
