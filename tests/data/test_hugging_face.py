"""Data sets in the form of Hugging Face's `datasets`: folders, its local cache, and never the network."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from protoat.cli import main
from protoat.data import DataNotFoundError, HFDataset
from protoat.data.hugging_face_columns import Columns
from protoat.errors import UserError
from protoat.recipes.reading import read_recipe
from protoat.runs.build import build
from protoat.runs.run import Run
from protoat.runs.train import train
from tests import kills

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.filterwarnings("ignore")  # of what `datasets` is built on

STYLES = ["plain", "dotted"]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A cache of its own, and nobody to call."""

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX:
            raise AssertionError(f"connects to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("PROTOAT_CACHE", str(tmp_path / "decoded"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    return


def pixels(number: int) -> Any:
    return np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def file_of(number: int, suffix: str = "png") -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels(number)).save(content, suffix)
    return content.getvalue()


def table(numbers: range, **columns: Any) -> Any:
    """A picture for each number; class by parity, with labels that are not in the order of their names."""
    rows = {
        "picture": [{"bytes": file_of(number), "path": None} for number in numbers],
        "kind": [number % 2 for number in numbers],
        "style": [STYLES[number // 2 % 2] for number in numbers],
        "weight": [0.5] * len(numbers),
        **columns,
    }
    features = {
        "picture": datasets.Image(),
        "kind": datasets.ClassLabel(names=["zebra", "ant"]),
        "style": datasets.Value("string"),
        "weight": datasets.Value("float32"),
    }
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    halves = {"train": table(range(16)), "test": table(range(16, 24)), "extra": table(range(3))}
    datasets.DatasetDict(halves).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def test_a_saved_folder(saved: Path) -> None:
    source = HFDataset(path=str(saved), mode="style")
    for split, numbers in (("train", range(16)), ("test", range(16, 24))):
        data = source.load(split)
        assert data.class_names == ("zebra", "ant")
        assert data.mode_names == ("zebra/dotted", "zebra/plain", "ant/dotted", "ant/plain")
        assert data.labels.tolist() == [number % 2 for number in numbers]
        names = [data.mode_names[mode] for mode in data.modes]
        assert names == [f"{['zebra', 'ant'][n % 2]}/{STYLES[n // 2 % 2]}" for n in numbers]
        expected = np.stack([pixels(number).transpose(2, 0, 1) for number in numbers])
        assert torch.equal(data.images, torch.from_numpy(expected))
    found = source.inventory()
    assert found.images["test"] == dict.fromkeys(data.mode_names, 2)
    assert found.left_out == {"images of split extra": 3} and found.leaks == []


def test_without_a_test_split_a_fifth_of_each_mode_by_content(tmp_path: Path) -> None:
    table(range(40)).save_to_disk(tmp_path / "one")
    source = HFDataset(path=str(tmp_path / "one"), mode="style")
    train, test = source.load("train"), source.load("test")
    assert torch.bincount(test.modes).tolist() == [2] * 4 and len(train) == 32
    table(range(39, -1, -1)).save_to_disk(tmp_path / "other")
    again = HFDataset(path=str(tmp_path / "other"), mode="style").load("test")
    assert sorted(map(bytes, again.images.numpy())) == sorted(map(bytes, test.images.numpy()))


def test_validation_split(tmp_path: Path) -> None:
    halves = {"train": table(range(8)), "valid": table(range(8, 12)), "test": table(range(12, 16))}
    datasets.DatasetDict(halves).save_to_disk(tmp_path / "saved")
    assert len(HFDataset(path=str(tmp_path / "saved")).load_validation()) == 4
    del halves["test"]
    datasets.DatasetDict(halves).save_to_disk(tmp_path / "two")
    source = HFDataset(path=str(tmp_path / "two"))
    assert source.load_validation() is None and len(source.load("test")) == 4


def test_parquet_and_a_folder_of_pictures(tmp_path: Path, saved: Path) -> None:
    folder = tmp_path / "parquet"
    folder.mkdir()
    for split, numbers in (("train", range(16)), ("test", range(16, 24))):
        table(numbers).to_parquet(str(folder / f"{split}.parquet"))
    expected = HFDataset(path=str(saved)).load("test")
    found = HFDataset(path=str(folder)).load("test")
    assert torch.equal(found.images, expected.images) and torch.equal(found.labels, expected.labels)
    for split, numbers in (("train", range(16)), ("test", range(16, 24))):
        for number in numbers:
            path = tmp_path / "pictures" / split / ["zebra", "ant"][number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file_of(number))
    data = HFDataset(path=str(tmp_path / "pictures")).load("test")
    assert data.class_names == ("ant", "zebra") and len(data) == 8
    (zebra,) = (at for at, image in enumerate(data.images) if np.array_equal(image, pixels(16).transpose(2, 0, 1)))
    assert data.labels[zebra] == 1


def test_the_local_cache(tmp_path: Path) -> None:
    source = HFDataset(path="somebody/pictures", mode="style")
    assert not source.available()
    with pytest.raises(DataNotFoundError, match=r"download it: protoat data HF:somebody/pictures --download"):
        source.load("train")
    for split in ("train", "test"):
        table(range(8) if split == "train" else range(8, 12)).to_parquet(str(tmp_path / f"{split}.parquet"))
    files = {split: str(tmp_path / f"{split}.parquet") for split in ("train", "test")}
    made = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))
    (folder,) = {Path(each["filename"]).parent for each in made["train"].cache_files}
    there = tmp_path / "cache/somebody___pictures/default/0.0.0" / folder.name
    there.parent.mkdir(parents=True)
    folder.rename(there)
    for file in there.glob("parquet-*"):
        file.rename(file.with_name(file.name.replace("parquet-", "pictures-")))
    source = HFDataset(path="somebody/pictures", mode="style")
    assert source.available() and len(source.load("train")) == 8
    assert np.array_equal(source.load("test").images[0], pixels(8).transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({}, {"label": "sort"}, r"no column 'sort' of labels; its columns are picture, kind, style, weight"),
        ({}, {"image": "style"}, r"no column 'style' of images"),
        ({}, {"mode": "sort"}, r"no column 'sort' of modes"),
        ({}, {"label": "weight"}, "column 'weight' holds floats"),
        ({"kind": [-1, *[0, 1] * 4]}, {}, "image 0 of split train of .* has no kind"),
        ({"kind": [0] * 9}, {}, "has 1 classes in column 'kind'"),
        (
            {"picture": [None, *[{"bytes": file_of(1), "path": None}] * 8]},
            {},
            "image 0 of split train of .* is missing",
        ),
        ({"picture": [{"bytes": b"GIF89a", "path": None}] * 9}, {}, r"image 0 of .* cannot be read as an image"),
    ],
)
def test_what_does_not_fit_is_named(columns: Any, options: Any, message: str, tmp_path: Path) -> None:
    table(range(9), **columns).save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError, match=message):
        HFDataset(path=str(tmp_path / "saved"), **options).load("train")


def test_where_several_columns_could_be_meant_they_are_named(tmp_path: Path) -> None:
    styles = datasets.ClassLabel(names=STYLES)
    table(range(9)).cast_column("style", styles).remove_columns("weight").save_to_disk(tmp_path / "saved")
    with pytest.raises(
        UserError, match=r"several columns that could hold the labels, kind, style; name one of .* label$"
    ):
        HFDataset(path=str(tmp_path / "saved")).load("train")
    with pytest.raises(UserError, match="no column 'stile' of modes"):
        HFDataset(path=str(tmp_path / "saved"), mode="stile").load("train")
    table(range(9)).remove_columns("picture").save_to_disk(tmp_path / "bare")
    with pytest.raises(UserError, match=r"has no column of images; name one of kind, style, weight by image$"):
        HFDataset(path=str(tmp_path / "bare")).load("train")


def test_files_elsewhere_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "within").mkdir()
    for path in (tmp_path / "secret.png", tmp_path / "within/a.png"):
        path.write_bytes(file_of(0))
    found = []
    for name in ("within/a.png", "within/../secret.png"):
        data = table(range(2), picture=[{"bytes": None, "path": str(tmp_path / name)}] * 2)
        columns = Columns("set", {"train": data}, image=None, label="kind", mode=None)
        try:
            found += columns.pictures([tmp_path / "within"])
        except UserError as error:
            assert f"outside of its folder, {tmp_path / 'secret.png'}" in str(error)
    assert found == [file_of(0)] * 2


def test_a_missing_mode_is_unknown(tmp_path: Path) -> None:
    table(range(12), style=[None, *STYLES * 5, "plain"]).save_to_disk(tmp_path / "saved")
    data = HFDataset(path=str(tmp_path / "saved"), mode="style").load("train")
    assert "zebra/(unknown)" in data.mode_names


def test_in_a_recipe_and_on_the_command_line(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", f"HF:{saved}", "--data.mode", "style", "--groups", "none", "--validation_size", "4"]
    recipe = read_recipe("digits", [*words, "--batch_size", "8", "--modes", "known"])
    assert recipe.data.mode == "style" and f"path: {saved}" in recipe.text
    assert build(recipe).objective.modes.prototypes_per_class == [2, 2]
    assert main(["data", f"HF:{saved}", "--mode", "style"]) == 0
    assert "train (train) 16: zebra/dotted 4, zebra/plain 4" in capsys.readouterr().out
    assert main(["data", "MNIST", "--mode", "style"]) == 2
    assert "write protoat data ImageFolder --path FOLDER, or protoat data HF:NAME" in capsys.readouterr().err


def test_a_killed_run_on_it_resumes_exactly(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--data", f"HF:{saved}", "--data.mode", "style", "--groups", "none", "--validation_size", "4"]
    words += ["--modes", "known", "--batch_size", "4", "--epochs", "3", "--method.steps", "1", "--schedule", "none"]
    recipe = read_recipe("digits", [*words, "--checkpoint_every", "1"])
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    with kills.killed_at(10**9) as counted:
        train(recipe, whole, progress=False)
    for share in (0.4, 0.7):
        with pytest.raises(kills.Killed), kills.killed_at(round(share * counted.done / 2)):
            train(recipe, killed, progress=False)
        assert not Run(killed).complete and Run(killed).metrics != Run(whole).metrics
        monkeypatch.setenv("PROTOAT_CACHE", str(tmp_path / f"decoded-{share}"))  # on another machine, so to say
    train(recipe, killed, progress=False)
    assert (killed / "last.safetensors").read_bytes() == (whole / "last.safetensors").read_bytes()
    lines = [[replace(line, seconds=0.0) for line in Run(folder).metrics] for folder in (killed, whole)]
    assert lines[0] == lines[1] and len(lines[0]) == 3


def test_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'protoat\[datasets\]'"):
        HFDataset(path=str(tmp_path)).load("train")
