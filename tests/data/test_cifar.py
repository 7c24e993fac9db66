from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torchvision import datasets

from protoat.data import CIFAR10, CIFAR100_SUPERCLASSES, Augment, DataNotFoundError, regroup

# Fine label -> coarse label, from the coarse labels in the official file.
COARSE_ROWS = """
 4  1 14  8  0  6  7  7 18  3      3 14  9 18  7 11  3  9  7 11
 6 11  5 10  7  6 13 15  3 15      0 11  1 10 12 14 16  9 11  5
 5 19  8  8 15 13 14 17 18 10     16  4 17  4  2  0 17  4 18 17
10  3  2 12 12 16 12  1  9 19      2 10  0  1 16 12  9 13 15 13
16 19  2  4  6 19  5  5  8 19     18  1  2 15  6  0 17  8 14 13
"""
COARSE = [int(number) for number in COARSE_ROWS.split()]


def test_pixels_and_labels_equal_torchvisions(
    official: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = official.make_cifar10(tmp_path, monkeypatch)
    for split in ("train", "test"):
        data, theirs = source.load(split), datasets.CIFAR10(tmp_path, train=split == "train")
        assert len(data) == len(theirs) == (100 if split == "train" else 20)
        for index in (0, 7, 19):
            image, label = theirs[index]
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
            assert torch.equal(data.images[index], pixels) and data.labels[index] == label
    assert list(data.class_names) == official.CIFAR10_NAMES
    assert source.augment == Augment(padding=4, flip=True)
    assert regroup(data, 2).class_names == ("airplane-deer", "dog-truck")


def test_superclass_table_equals_the_coarse_labels(official: ModuleType) -> None:
    names = list(CIFAR100_SUPERCLASSES)
    assert len(names) == 20 and all(len(fine) == 5 for fine in CIFAR100_SUPERCLASSES.values())
    table = [
        next(i for i, n in enumerate(names) if fine in CIFAR100_SUPERCLASSES[n]) for fine in official.CIFAR100_NAMES
    ]
    assert table == COARSE


def test_superclasses_and_blocks(official: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = official.make_cifar100(tmp_path, monkeypatch).load("train")
    coarse = regroup(data, "superclasses")
    assert coarse.labels.tolist() == [COARSE[label] for label in data.labels.tolist()]
    assert coarse.class_names[0] == "aquatic_mammals" and coarse.mode_names == data.class_names
    assert torch.equal(coarse.modes, data.labels)
    ten = regroup(data, 10)
    assert torch.equal(ten.labels, data.labels // 10) and ten.class_names[0] == "apple-bottle"


def test_altered_file_is_refused_before_it_is_unpickled(
    official: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = official.make_cifar10(tmp_path, monkeypatch)
    path = source.location() / "data_batch_3"
    path.write_bytes(path.read_bytes() + b"\n")
    monkeypatch.setattr("pickle.load", lambda *args, **kwargs: pytest.fail("an unchecked pickle was read"))
    with pytest.raises(ValueError, match=r"files in .*cifar-10-batches-py are damaged \(.*corrupted"):
        source.load("train")


@pytest.mark.parametrize("name", ["test_batch", "batches.meta"])
def test_missing_file_means_not_found(
    official: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    source = official.make_cifar10(tmp_path, monkeypatch)
    (source.location() / name).unlink()
    with pytest.raises(DataNotFoundError, match="protoat data CIFAR10 --download"):
        CIFAR10(root=tmp_path).load("train")
