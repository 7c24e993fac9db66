"""On the command line advice names options as one types them; the library's own messages name arguments."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import protoat as pa
from protoat.cli import main
from protoat.cli.advice import advise, options_of_recipe
from protoat.spelling import setting, spell_by

TRAIN = ("train", "--epochs", "2", "--validation_size", "0", "--method.steps", "1")


def said(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    main(list(args))
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (
            "--regularizer.tied true --modes known --regularizer.prototype_init kmeans",
            "write --regularizer.prototype_init random with tied",
        ),
        ("--regularizer.merge_start 7", "--regularizer.merge_start 7 and --regularizer.merge_stop 0.9 is outside"),
        ("--initialise.weights absent.pt", "--initialise.weights absent.pt: there is no such file"),
        ("--select worst-mode", "write --validation_size 1000"),
        ("--method.ramp_epochs -1", "--method.ramp_epochs -1 must not be negative; write 0"),
    ],
)
def test_errors_name_options(args: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in said(capsys, *TRAIN, *args.split(), "--out", str(tmp_path / "run"))


def test_warnings_name_options_and_those_of_the_library_arguments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # those of pytest take the place of ours
    late = ("--regularizer.merge_start", "0.9", "--regularizer.merge_stop", "0.95", "--averaging", "SWA")
    shown = said(capsys, *TRAIN, *late, "--averaging.start_epoch", "9", "--out", str(tmp_path / "run"))
    assert "never merge (--regularizer.merge_start 0.9, --regularizer.merge_stop 0.95); write " in shown
    assert (
        "write --regularizer.merge_start 0 --regularizer.merge_stop 1, or --regularizer.merge_threshold 0 if" in shown
    )
    assert "write --schedule.milestones below 2, or shares" in shown
    assert "(--averaging.start_epoch 9); write --averaging.start_epoch of at most" in shown
    (text,) = pa.SoftTriple(2, 4, merge_start=0.9, merge_stop=0.95).unreached(2)
    assert "(merge_start=0.9, merge_stop=0.95); write merge_start=0 and merge_stop=1, or merge_threshold=0" in text


def test_each_command_names_its_own_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in range(4):
        side = 8 + place
        file = tmp_path / "pictures" / "ab"[place % 2] / f"{place}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((side, side), 80, np.uint8)).save(file)
    pictures = str(tmp_path / "pictures")
    data = ("--data", "ImageFolder", "--data.path", pictures)
    trained = said(capsys, "train", "--config", "digits", *data, "--out", str(tmp_path / "run"))
    assert "write --data.image_size 32 to bring" in trained
    model = ("evaluate", "--model", "torchvision:resnet18", "--threat.eps", "0.1", "--out", str(tmp_path / "found"))
    measured = said(capsys, *model, *data)
    assert "write --data.image_size 32 to bring" in measured
    with pytest.raises(ValueError, match="; write image_size=32 to bring all to one size"):
        pa.ImageFolder(path=pictures).load("train")


def test_data_that_is_not_there_is_asked_for_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, advice in (("MNIST", "download it: protoat data MNIST --download"), ("ImageFolder", "images by --path")):
        assert main(["data", name, "--root", str(tmp_path)]) == 0
        assert advice in capsys.readouterr().out


def test_what_several_parts_take_is_named_for_each() -> None:
    both = {"class_path": "X", "init_args": {"merge_start": 0.5}}
    advise(lambda: options_of_recipe({"head": both, "regularizer": both}))
    assert setting(merge_start=0) == "--head.merge_start 0 or --regularizer.merge_start 0"
    spell_by(None)
    assert setting(merge_start=0) == "merge_start=0"
