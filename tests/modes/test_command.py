"""Modes on the command line: the user's own folders, class by class and mode by mode, and what does not fit."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import protoat as pa
from protoat.cli import main

QUICK = ["--epochs", "2", "--validation_size", "8", "--method.steps", "1", "--schedule", "none"]


def fill(folder: Path, *modes: str, count: int = 15) -> Path:
    """Pictures of 8x8 pixels for each folder below `folder`."""
    random = np.random.default_rng(0)
    for number, mode in enumerate(modes):
        (folder / mode).mkdir(parents=True, exist_ok=True)
        for place in range(count):
            pixels = random.integers(40, size=(8, 8)).astype(np.uint8) + 40 * number
            Image.fromarray(pixels.astype(np.uint8)).save(folder / mode / f"{place}.png")
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Class a has two modes and some pictures of no mode, class b has three, class c none."""
    return fill(tmp_path / "pictures", "a/x", "a/y", "a", "b/u", "b/v", "b/w", "c")


def test_known_modes_of_folders(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    command = ["train", "--data", "ImageFolder", "--data.path", str(pictures), "--regularizer", "none", *QUICK]
    command += ["--modes", "known", "--modes.mode_weight", "0.4", "--out", str(out)]
    assert main(command) == 0
    assert main(command) == 0  # is complete already
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert all(line["mode"] > 0 for line in lines)
    assert json.loads((out / "run.json").read_text())["prototypes_per_class"] == [2, 3, 1]
    run = pa.Run(out)
    (head,) = (layer for layer in run.model.modules() if isinstance(layer, pa.MultiPrototypeHead))
    assert head.active.sum(1).tolist() == [2, 3, 1]
    assert main(["evaluate", str(out), "--attacks", "clean", "pgd2"]) == 0
    capsys.readouterr()
    assert main(["show", str(out)]) == 0
    assert "ImageFolder, PGDAT with KnownModes, none, seed 0" in capsys.readouterr().out
    assert set(pa.Run(out).evaluation["pgd2"].per_mode) == {"a/(unknown)", "a/x", "a/y", "b/u", "b/v", "b/w", "c"}


def test_discovered_modes_of_a_run_trained_before(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean, out = tmp_path / "clean", tmp_path / "run"
    command = ["train", "--data", "ImageFolder", "--data.path", str(pictures), "--regularizer", "none", *QUICK]
    assert main([*command, "--out", str(clean)]) == 0
    command += ["--modes", "discovered", "--modes.clusters", "3"]
    assert main([*command, "--modes.encoder", str(clean), "--out", str(out)]) == 0
    run = pa.Run(out)
    assert [line.modes is not None for line in run.metrics] == [True, True]
    found = run.metrics[0].modes
    assert found is not None and [sum(size > 0 for size in sizes) for sizes in found.sizes] == [3, 3, 3]
    assert found.nmi[0] is not None and found.nmi[2] is None  # class c has one mode
    told = yaml.safe_load((out / "recipe.yaml").read_text())["modes"]["init_args"]
    assert told["encoder"] == str(clean)
    assert told["encoder_sha256"] == sha256((clean / "best.safetensors").read_bytes()).hexdigest()
    assert run.fingerprint != pa.Run(clean).fingerprint
    moved = tmp_path / "moved"
    clean.rename(moved)
    assert main([*command, "--modes.encoder", str(moved), "--out", str(out)]) == 0  # the same run, and complete
    capsys.readouterr()
    for options, said in (
        (["--modes.encoder", str(out / "absent")], "absent"),
        (["--modes.encoder", str(moved), "--modes.encoder_sha256", "0" * 64], "has changed: its SHA-256 is"),
        (["--modes.encoder", str(moved), "--data.image_size", "16"], "was trained on images of shape (1, 8, 8)"),
    ):
        assert main([*command, *options, "--out", str(tmp_path / "other")]) == 2
        found_error = capsys.readouterr().err
        assert said in found_error and len(found_error.splitlines()) == 1, found_error
        assert not (tmp_path / "other").exists()
    assert main(["report", str(out), "--images", "20", "--out", str(tmp_path / "report.html")]) == 0
    assert "Modes that were found" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--modes", "knwn"], "modes 'knwn' is unknown; write one of "),
        (["--modes", "known", "--modes.mode_weight", "2"], "--modes.mode_weight 2 is outside [0, 1]"),
        (["--modes", "known", "--head", "MultiPrototypeHead", "--head.prototypes_per_class", "2"], "[2, 3, 1] modes"),
        (
            ["--modes", "known", "--groups", "{all: [c], rest: [a]}", "--modes.mode_stop", "0"],
            "--modes.mode_stop 0 is outside",
        ),
    ],
)
def test_what_does_not_fit(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    out = tmp_path / "run"
    command = ["train", "--data", "ImageFolder", "--data.path", str(pictures), "--regularizer", "none", *QUICK]
    assert main([*command, *options, "--out", str(out)]) == 2
    found = capsys.readouterr().err
    assert said in found and len(found.splitlines()) == 1, found
    assert not out.exists()


def test_classes_of_one_mode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = fill(tmp_path / "pictures", "a", "b")
    command = ["train", "--data", "ImageFolder", "--data.path", str(folder), *QUICK, "--modes", "known"]
    assert main([*command, "--out", str(tmp_path / "run")]) == 2
    assert "no class of the images has two modes" in capsys.readouterr().err


def test_modes_are_part_of_what_a_run_is() -> None:
    from protoat.recipes.fingerprint import fingerprint
    from protoat.recipes.reading import read_recipe
    from protoat.storage.parsing import parse_yaml

    told = [
        fingerprint(parse_yaml(read_recipe("digits-2", options).text))
        for options in ([], ["--modes", "none"], ["--modes", "known"], ["--modes", "known", "--modes.mode_weight", "0"])
    ]
    assert told[0] == told[1] and len(set(told)) == 3
