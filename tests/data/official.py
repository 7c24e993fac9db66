"""Writes each data set, tiny, in its official format: one maker for each `Source`."""

from __future__ import annotations

import gzip
import hashlib
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from protoat.data import (
    CIFAR10,
    CIFAR100,
    CIFAR100_SUPERCLASSES,
    MNIST,
    Digits,
    FashionMNIST,
    HFDataset,
    ImageFolder,
    Source,
    TinyImageNet,
)

CIFAR10_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
CIFAR100_NAMES = sorted(name for names in CIFAR100_SUPERCLASSES.values() for name in names)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_idx(folder: Path, counts: dict[str, int]) -> None:
    """IDX files of 28x28 images whose labels run 0, 1, ..., 9, 0, ..."""
    folder.mkdir(parents=True)
    for seed, (part, count) in enumerate(counts.items()):
        images, labels = noise(count, 28, 28, seed=seed), np.arange(count, dtype=np.uint8) % 10
        header = struct.pack(">4i", 0x803, count, 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, count) + labels.tobytes())


def make_digits(root: Path, patch: pytest.MonkeyPatch) -> Source:
    return Digits(root=root)


def make_mnist(root: Path, patch: pytest.MonkeyPatch) -> Source:
    write_idx(root / "MNIST" / "raw", {"train": 40, "t10k": 20})
    return MNIST(root=root)


def make_fashion(root: Path, patch: pytest.MonkeyPatch) -> Source:
    write_idx(root / "FashionMNIST" / "raw", {"train": 40, "t10k": 20})
    return FashionMNIST(root=root)


def write_cifar(folder: Path, dataset: type, labels_key: str, batch: int, patch: pytest.MonkeyPatch) -> None:
    """Pickled batches, and their checksums in the place of the published ones: torchvision's check stays on."""
    folder.mkdir(parents=True)
    classes = len(CIFAR10_NAMES if labels_key == "labels" else CIFAR100_NAMES)

    def write(name: str, content: dict[str, object]) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    def batches(listed: list[list[str]], first_seed: int) -> list[list[str]]:
        checked = []
        for seed, (name, _) in enumerate(listed, start=first_seed):
            labels = [(seed + i) % classes for i in range(batch)]
            checked.append([name, write(name, {"data": noise(batch, 3072, seed=seed), labels_key: labels})])
        return checked

    patch.setattr(dataset, "train_list", batches(dataset.train_list, 0))
    patch.setattr(dataset, "test_list", batches(dataset.test_list, 100))
    names = {"label_names": CIFAR10_NAMES, "fine_label_names": CIFAR100_NAMES}
    key = dataset.meta["key"]
    patch.setattr(dataset, "meta", dataset.meta | {"md5": write(dataset.meta["filename"], {key: names[key]})})


def make_cifar10(root: Path, patch: pytest.MonkeyPatch) -> Source:
    write_cifar(root / "cifar-10-batches-py", datasets.CIFAR10, "labels", 20, patch)
    return CIFAR10(root=root)


def make_cifar100(root: Path, patch: pytest.MonkeyPatch) -> Source:
    write_cifar(root / "cifar-100-python", datasets.CIFAR100, "fine_labels", 200, patch)
    return CIFAR100(root=root)


def make_tiny_imagenet(root: Path, patch: pytest.MonkeyPatch) -> Source:
    """200 classes of 1 to 3 training and 50 validation images; 8x8 pixels, since the format does not depend on it."""
    folder = root / "tiny-imagenet-200"
    ids = [f"n{9000 - 3 * number:08d}" for number in range(200)]
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "wnids.txt").write_text("\n".join(ids))
    words = [f"{wnid}\tword {wnid}, other name\n" for wnid in [*ids, "n99999999"]]
    (folder / "words.txt").write_text("".join(words))
    annotations = []
    for number, wnid in enumerate(ids):
        holder = folder / "train" / wnid / "images"
        holder.mkdir(parents=True)
        original = holder / f"{wnid}_0.JPEG"
        Image.fromarray(np.full((8, 8, 3), number, dtype=np.uint8)).save(original)
        for copy in range(1, 1 + number % 3):
            os.link(original, holder / f"{wnid}_{copy}.JPEG")
        for image in range(50):
            name = f"val_{image * 200 + number}.JPEG"
            os.link(original, folder / "val" / "images" / name)
            annotations.append(f"{name}\t{wnid}\t0\t0\t7\t7\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(annotations))
    return TinyImageNet(root=root)


def make_folder(root: Path, patch: pytest.MonkeyPatch) -> Source:
    for number, mode in enumerate(["cat/black", "cat/white", "dog/black", "dog/brown"]):
        folder = root / "images" / mode
        folder.mkdir(parents=True)
        for image in range(6):
            Image.fromarray(noise(6, 5, 3, seed=10 * number + image)).save(folder / f"{image}.png")
    return ImageFolder(root=root)


def make_hugging_face(root: Path, patch: pytest.MonkeyPatch) -> Source:
    pytest.importorskip("datasets")
    for split, number in (("train", 12), ("test", 6)):
        for place, name in enumerate(("ant", "bee")):
            folder = root / "pictures" / split / name
            folder.mkdir(parents=True)
            for image in range(number):
                Image.fromarray(noise(6, 5, 3, seed=100 * number + 10 * place + image)).save(folder / f"{image}.png")
    return HFDataset(path=str(root / "pictures"))


MAKERS: dict[type[Source], Callable[[Path, pytest.MonkeyPatch], Source]] = {
    Digits: make_digits,
    MNIST: make_mnist,
    FashionMNIST: make_fashion,
    CIFAR10: make_cifar10,
    CIFAR100: make_cifar100,
    TinyImageNet: make_tiny_imagenet,
    ImageFolder: make_folder,
    HFDataset: make_hugging_face,
}


def compress(folder: Path) -> dict[str, str]:
    """Replaces files by ``.gz`` archives; returns the checksum of each archive."""
    checksums = {}
    for path in sorted(folder.iterdir()):
        archive = path.with_name(f"{path.name}.gz")
        archive.write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
        checksums[archive.name] = hashlib.md5(archive.read_bytes()).hexdigest()
    return checksums
