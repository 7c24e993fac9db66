"""What the reader says of a folder, against folders whose content is known."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from protoat.data import Digits, ImageData, ImageFolder
from protoat.data.inventory import inventory_of


def save(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)).save(path)


def fill(folder: Path, *names: str, count: int = 4, seed: int = 0) -> Path:
    for place, name in enumerate(names):
        for index in range(count):
            save(folder / name / f"{index}.png", seed=seed + 100 * place + index)
    return folder


def test_images_of_each_split_and_mode(tmp_path: Path) -> None:
    fill(tmp_path / "train", "a/x", "a/y", "b/z", count=3)
    fill(tmp_path / "test", "a/x", "b/z", count=2, seed=1000)
    found = ImageFolder(path=tmp_path).inventory()
    assert found is not None and found.splits == {"train": "train", "test": "test"}
    assert found.images == {"train": {"a/x": 3, "a/y": 3, "b/z": 3}, "test": {"a/x": 2, "a/y": 0, "b/z": 2}}
    assert found.left_out == {} and found.leaks == []
    assert str(found) == "train (train) 9: a/x 3, a/y 3, b/z 3; test (test) 4: a/x 2, a/y 0, b/z 2"


def test_what_is_left_out_is_counted_by_reason(tmp_path: Path) -> None:
    fill(tmp_path / "train", "a", "b")
    fill(tmp_path / "test", "a/m", "b", seed=1000)
    inside = tmp_path / "train" / "a"
    for name in ("1.heic", "2.HEIC", "notes.txt", "Thumbs.db", "README", ".hidden", "._0.png", "x.verylongsuffix"):
        (inside / name).write_bytes(b"no picture")
    (inside / "link.png").symlink_to(inside / "0.png")
    os.mkfifo(inside / "pipe.png")
    save(tmp_path / "train" / "stray.png", seed=1)
    fill(tmp_path / "dev", "a", "b")
    (tmp_path / "test" / "a" / "m" / "deeper").mkdir()
    found = ImageFolder(path=tmp_path).inventory()
    assert found is not None and found.left_out == {
        ".heic files": 2,
        ".txt files": 1,
        ".db files": 1,
        "other files": 2,
        "hidden files or folders": 2,
        "links, which are not followed": 1,
        "pipes or devices": 1,
        "pictures beside the class folders": 1,
        "folder dev beside the splits": 1,
        "folders inside a mode": 1,
    }
    assert "left out: " in str(found) and "2 .heic files" in str(found)


def test_copies_between_splits_and_classes_by_their_pixels(tmp_path: Path) -> None:
    fill(tmp_path / "train", "a", "b")
    fill(tmp_path / "test", "a", "b", seed=1000)
    fill(tmp_path / "val", "a", "b", seed=2000)
    (tmp_path / "test" / "a" / "copy.png").write_bytes((tmp_path / "train" / "a" / "0.png").read_bytes())
    Image.open(tmp_path / "train" / "b" / "1.png").save(tmp_path / "test" / "b" / "saved_again.bmp")
    Image.open(tmp_path / "train" / "b" / "1.png").save(tmp_path / "val" / "b" / "saved_again.tif")
    Image.open(tmp_path / "train" / "a" / "3.png").save(tmp_path / "train" / "b" / "other_class.bmp")
    found = ImageFolder(path=tmp_path).inventory()
    assert found is not None and found.repeated == {"test": 2, "validation": 1} and found.in_two_classes == 2
    assert found.leaks == [
        "2 of 10 test images are also in train, pixel for pixel",
        "1 of 9 validation images are also in train, pixel for pixel",
        "2 images stand in two classes, pixel for pixel",
    ]


def test_a_split_by_content_never_leaks_within_a_class(tmp_path: Path) -> None:
    fill(tmp_path, "a", "b", count=10)
    for index in range(10):
        (tmp_path / "a" / f"copy{index}.png").write_bytes((tmp_path / "a" / f"{index}.png").read_bytes())
    found = ImageFolder(path=tmp_path).inventory()
    assert found is not None and found.leaks == [] and found.splits["test"] == "a fifth by content"


def test_a_folder_that_is_not_there_has_no_inventory(tmp_path: Path) -> None:
    assert ImageFolder(path=tmp_path / "none").inventory() is None


def test_val_beside_test_is_held_out(tmp_path: Path) -> None:
    fill(tmp_path / "train", "a", "b", "c")
    fill(tmp_path / "test", "a", "b", "c", count=2, seed=1000)
    source = ImageFolder(path=tmp_path)
    assert source.load_validation() is None
    fill(tmp_path / "valid", "a", "b", count=3, seed=2000)  # a class too rare to be there
    held_out = source.load_validation()
    assert held_out is not None and held_out.counts.tolist() == [3, 3, 0]
    assert len(source.load("train")) == 12 and len(source.load("test")) == 6
    fill(tmp_path / "valid", "d")
    with pytest.raises(ValueError, match=r"class 'd' is in only one of .*train and .*valid"):
        source.load_validation()


def test_a_set_without_images_has_no_copies() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    data = ImageData(torch.zeros(0, 1, 2, 2, dtype=torch.uint8), none, ("a", "b"))
    found = inventory_of(data, [], {"train": "train", "test": "test"})
    assert found.images == {"train": {"a": 0, "b": 0}, "test": {"a": 0, "b": 0}} and found.leaks == []


def test_a_split_without_labels_is_named(tmp_path: Path) -> None:
    fill(tmp_path / "train", "a", "b")
    fill(tmp_path / "val", "a", "b", seed=1000)
    save(tmp_path / "test" / "1.png", seed=2)
    with pytest.raises(ValueError, match=r"test has no class folders; if its images have no labels, move it elsewhere"):
        ImageFolder(path=tmp_path).load("train")


def test_digits_have_no_copies() -> None:
    found = Digits().inventory()
    assert (
        found is not None and sum(found.images["train"].values()) == 1297 and sum(found.images["test"].values()) == 500
    )
    images = torch.cat([Digits().load(split).images for split in ("train", "test")])  # type: ignore[arg-type]
    assert (len(images.flatten(1).unique(dim=0)) == 1797) == (found.leaks == [])


def test_names_that_are_numbers_are_sorted_as_numbers(tmp_path: Path) -> None:
    fill(tmp_path / "plain", "1", "2", "10", "b", "a")
    assert ImageFolder(path=tmp_path / "plain").load("train").class_names == ("1", "2", "10", "a", "b")
    fill(tmp_path / "modes", "10/2", "10/10", "9/-1", "9/0.5", "9/x", "9/-1.5")
    data = ImageFolder(path=tmp_path / "modes").load("train")
    assert data.class_names == ("9", "10")
    assert data.mode_names == ("9/-1.5", "9/-1", "9/0.5", "9/x", "10/2", "10/10")
    assert torch.equal(data.mode_class[data.modes], data.labels)
    fill(tmp_path / "odd", "01", "1", "²", "1e3", "9" * 200)
    assert ImageFolder(path=tmp_path / "odd").load("train").class_names == ("01", "1", "9" * 200, "1e3", "²")


def test_names_that_are_numbers_are_sorted_alike_in_all_splits(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{split}/{name}" for split in ("train", "test") for name in ("10", "9", "-2")), "val/10")
    usual, turned = ImageFolder(path=tmp_path), ImageFolder(path=tmp_path, classes=[10, -2, 9])  # type: ignore[list-item]
    for source, order, ten in ((usual, ("-2", "9", "10"), 2), (turned, ("10", "-2", "9"), 0)):
        held_out = source.load_validation()
        assert held_out is not None and set(held_out.labels.tolist()) == {ten}
        for data in (source.load("train"), source.load("test"), held_out):
            assert data.class_names == order


def test_an_order_of_classes(tmp_path: Path) -> None:
    fill(tmp_path, "a/x", "a/y", "b", "c")
    usual, turned = ImageFolder(path=tmp_path).load("train"), ImageFolder(path=tmp_path, classes=["c", "a", "b"])
    data = turned.load("train")
    assert data.class_names == ("c", "a", "b") and data.mode_names == ("c", "a/x", "a/y", "b")
    of_c = [data.images[data.labels == 0], usual.images[usual.labels == 2]]
    assert torch.equal(*of_c) and len(of_c[0])
    for wrong, named in ((["a", "b"], "'c'"), (["a", "b", "c", "d"], "'d'"), (["a", "b", "c", "a"], "'a'")):
        with pytest.raises(
            ValueError, match=f"must name each class of .* once; {named} is not in both, or named twice"
        ):
            ImageFolder(path=tmp_path, classes=wrong).load("train")
    with pytest.raises(ValueError, match="classes='abc' is one name; write a list"):
        ImageFolder(path=tmp_path, classes="abc")
