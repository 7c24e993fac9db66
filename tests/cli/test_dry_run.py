"""``train --dry-run``: the plan of a run and its time; nothing is written."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from protoat.cli import main
from protoat.recipes.reading import read_recipe
from protoat.runs import plan as module
from protoat.runs.plan import plan

SHORT = ["--epochs", "30", "--validation_size", "300", "--validate_every", "7"]


def test_it_writes_nothing_and_says_what_would_be_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--config", "digits-2", *SHORT, "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["plan"]
    assert found["about"]["images"] == "997 of 1x8x8 in 2 classes with 10 modes; 300 held out"
    batch_size = read_recipe("digits-2").batch_size
    assert found["batches"] == -(-997 // batch_size) and found["updates"] == 30 * found["batches"]
    assert found["validations"] == 5  # after epochs 7, 14, 21, 28 and the last
    whole = 30 * found["batches"] * found["batch_seconds"] + 5 * found["validation_seconds"]
    assert found["total_seconds"] == pytest.approx(whole) and found["batch_seconds"] > 0
    assert main(["train", "--config", "digits-2", *SHORT, "--dry-run"]) == 0
    assert "here; nothing was written" in capsys.readouterr().out
    assert main(["pretrain", "--dry-run"]) == 0
    assert not list(tmp_path.iterdir())


def test_the_first_batch_only_warms_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 100.0, 190.0, 193.0, 200.0, 203.0])  # a look, then batches: 90, 3, 7 and 3 s
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    found = plan(
        read_recipe("digits", [*SHORT, "--method", "FreeAT", "--method.replays", "4", "--validation_size", "0"])
    )
    assert found.batch_seconds == 3.0 and found.validation_seconds == 0
    assert found.updates == found.epochs * found.batches * 4  # replays


def test_an_epoch_of_one_batch() -> None:
    found = plan(read_recipe("digits", [*SHORT, "--batch_size", "2000", "--validation_size", "0"]))
    assert found.batches == 1 and found.batch_seconds > 0


def test_without_a_recipe_pictures_of_mixed_size_are_brought_to_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for place in range(24):
        file = tmp_path / "pictures" / "ab"[place % 2] / "xyz"[place % 3] / f"{place}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB" if place % 4 else "L", (40 + place, 50), 9 * place).save(file)
    command = ["train", "--data", "ImageFolder", "--data.path", str(tmp_path / "pictures"), "--dry-run"]
    command += ["--modes", "known", "--weighting", "group-dro"]
    for words, side in ([], 32), (["--validation_size", "2"], 32), (["--data.image_size", "16"], 16):
        with caplog.at_level(logging.INFO):
            assert main([*command, *words]) == 0
        assert f"of 3x{side}x{side} in 2 classes with 6 modes; " in capsys.readouterr().out
        assert caplog.text.count("are brought to 32; --data.image_size says another") == (side == 32)
        assert caplog.text.count("the radius is linf 0.1; --threat.eps says another: 8/255 is usual for photo") == 1
        caplog.clear()
    of_data = ["data", "ImageFolder", "--path", str(tmp_path / "pictures")]
    for words, said in ([], 1), (["--image_size", "16"], 0):
        with caplog.at_level(logging.INFO):
            assert main([*of_data, *words]) == 0
        assert "train (four fifths by content) 18: a/x 3" in capsys.readouterr().out
        assert caplog.text.count("are brought to 32; --image_size says another") == said
        caplog.clear()
    assert main(["train", "--config", "digits", *command[1:]]) == 2
    assert "write --data.image_size 32 to bring all to one size" in capsys.readouterr().err
