"""What commands say of a user's own pictures, and what they keep of it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protoat.cli import main
from protoat.data import ImageFolder
from protoat.runs.run import Run
from protoat.runs.store import check_data
from protoat.storage.manifest import write_record

SHORT = ["--epochs", "1", "--method.steps", "1", "--schedule", "none", "--batch_size", "16", "--groups", "none"]


def fill(folder: Path, *names: str, count: int = 8, seed: int = 0) -> None:
    for place, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = np.random.default_rng(seed + 100 * place + index).integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Path:
    """A run on pictures with a split to hold out, a copy in the test split and a file of another kind."""
    monkeypatch.setenv("PROTOAT_CACHE", str(tmp_path / "cache"))
    fill(tmp_path / "set" / "train", "1", "2", "10")
    fill(tmp_path / "set" / "val", "1", "2", "10", count=2, seed=1000)
    fill(tmp_path / "set" / "test", "1", "2", "10", count=4, seed=2000)
    (tmp_path / "set" / "test" / "2" / "copy.png").write_bytes((tmp_path / "set/train/2/0.png").read_bytes())
    (tmp_path / "set" / "train" / "10" / "photo.heic").write_bytes(b"")
    own = ["--data", "ImageFolder", "--data.path", str(tmp_path / "set")]
    with caplog.at_level(logging.INFO):
        assert main(["train", "--config", "digits-2", *SHORT, *own, "--out", str(tmp_path / "run")]) == 0
    return tmp_path / "run"


def test_what_was_found_is_said_and_kept(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = [record.getMessage() for record in caplog.get_records("setup")]
    said = [line for line in lines if "1 .heic files" in line]
    assert len(said) == 1 and "1 of 13 test images are also in train" in said[0] and "10 8" in said[0]
    facts = json.loads((run / "run.json").read_text())
    assert (facts["train_images"], facts["validation_images"]) == (24, 6)
    assert facts["class_names"] == ["1", "2", "10"]
    kept = facts["inventory"]
    assert kept["images"]["test"] == {"1": 4, "2": 5, "10": 4} and kept["left_out"] == {".heic files": 1}
    assert kept["splits"] == {"train": "train", "test": "test", "validation": "val"} and kept["repeated"]["test"] == 1
    assert json.loads((run / "best.json").read_text())["images"] == 6
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert main(["evaluate", str(run), "--attacks", "clean", "fgsm"]) == 0
    assert "1 of 13 test images are also in train" in caplog.text and "1 .heic files" in caplog.text
    found = json.loads((run / "evaluation.json").read_text())["lint"]
    assert [entry["severity"] for entry in found if entry["code"] == "leak"] == ["warning"]
    assert main(["report", str(run), "--images", "10", "--out", str(run.parent / "page.html")]) == 0
    assert "also in train, pixel for pixel" in (run.parent / "page.html").read_text()


def test_a_list_of_files_of_the_data_set(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "ImageFolder", "--path", str(run.parent / "set")]) == 0
    printed = capsys.readouterr().out
    assert "validation (val) 6: 1 2, 2 2, 10 2" in printed and "left out: 1 .heic files" in printed
    assert main(["data", "Digits", "--path", "x"]) == 2


def test_a_run_of_another_order_of_classes_keeps_it(run: Path) -> None:
    """Earlier versions sorted numbers as text."""
    facts = json.loads((run / "run.json").read_text())
    now = Run(run).subject().data
    changed = facts | {"class_names": ["1", "10", "2"]}
    write_record(run / "run.json", json.dumps(changed).encode())
    data = Run(run).subject().data
    assert data.class_names == ("1", "10", "2") and data.digest() != now.digest()
    assert [data.class_names[label] for label in data.labels] == [now.class_names[label] for label in now.labels]
    with pytest.raises(ValueError, match="classes are in another order"):
        check_data(run, facts)
    own = ImageFolder(path=run.parent / "set", classes=["10", "1", "2"]).load("test")
    assert own.class_names == ("10", "1", "2")
