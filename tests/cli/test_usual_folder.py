"""What ``protoat train`` decides when it is not told: the folder of a run, and how many images are held out."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torchvision.io import write_png

from protoat.cli.train import start
from protoat.paper.job import Job


@pytest.fixture(autouse=True)
def nothing_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protoat.cli.train.train", lambda recipe, out, **options: SimpleNamespace(stopped=""))


def test_it_is_a_function_of_the_run_and_is_where_tables_look() -> None:
    def usual(*args: str) -> Path:
        return start("protoat train", list(args), "digits")[1]

    folder = usual("--config", "mnist")
    assert folder == Job("mnist", ("mnist",)).folder(Path("runs"))
    assert usual("--config", "mnist", "--checkpoint_every", "7", "--data.root", "elsewhere") == folder
    assert usual("--config", "mnist", "--seed", "1") != folder


def test_other_first_weights_are_another_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    folders = []
    for content in (b"a", b"b"):
        Path("weights").write_bytes(content)
        folders.append(start("protoat train", ["--initialise.weights", "weights"], "digits")[1])
    assert folders[0] != folders[1] and all(folder.parent == Path("runs") for folder in folders)


@pytest.mark.parametrize(
    ("words", "held_out"),
    [
        ([], 4),  # a fifth of the 20 that are left to train on; the recipe has 200
        (["--train_size", "10"], 2),
        (["--validation_size", "3"], 3),
        (["--validation_size=0"], 0),
        (["--config", "digits"], 200),
    ],
)
def test_few_pictures_of_ones_own_hold_out_a_fifth_unless_told(
    words: list[str], held_out: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PROTOAT_CACHE", str(tmp_path / "cache"))
    for split, count in (("train", 10), ("test", 1)):
        for label in range(2):
            (folder := tmp_path / "set" / split / str(label)).mkdir(parents=True)
            for index in range(count):
                pixels = torch.randint(256, (1, 8, 8), generator=torch.Generator().manual_seed(20 * label + index))
                write_png(pixels.to(torch.uint8), str(folder / f"{index}.png"))
    given = ["--data", "ImageFolder", "--data.path", str(tmp_path / "set"), *words]
    assert start("protoat train", given, "digits")[0].validation_size == held_out


def test_images_that_a_set_holds_out_itself_leave_the_size_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PROTOAT_CACHE", str(tmp_path / "cache"))
    for folder in (tmp_path / "set" / split / label for split in ("train", "val", "test") for label in "ab"):
        folder.mkdir(parents=True)
        write_png(torch.zeros(1, 8, 8, dtype=torch.uint8), str(folder / "0.png"))
    given = ["--data", "ImageFolder", "--data.path", str(tmp_path / "set")]
    assert start("protoat train", given, "digits")[0].validation_size == 200
