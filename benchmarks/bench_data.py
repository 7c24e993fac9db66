"""Augmented CIFAR images a second: `ImageLoader` against torchvision's one-image-at-a-time `DataLoader`.

The opponent is the usual script: `torchvision.datasets.CIFAR10`, which holds decoded arrays and makes a PIL image of
each, RandomCrop(32, padding=4), RandomHorizontalFlip, ToTensor, `DataLoader` with two workers that live through all
epochs. Both sides take turns on the same images in one process, ours on one thread only. A second row has the opponent
read JPEG files, as an image folder does. ``python benchmarks/bench_data.py``
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets, transforms

from protoat.data import CIFAR10, ImageData, ImageFolder, ImageLoader

BATCH, IMAGES, ROUNDS, LIMIT = 128, 12_800, 7, 10.0

TRANSFORM = transforms.Compose(
    [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
)


class InMemoryCIFAR(datasets.CIFAR10):
    """torchvision's own CIFAR10, `__getitem__` and all, over given images."""

    def __init__(self, data: ImageData) -> None:
        self.data = data.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.targets = data.labels.tolist()
        self.transform, self.target_transform = TRANSFORM, None


def images_per_second(batches: Iterable[Any], count: int) -> float:
    """Speed of one pass."""
    start = time.perf_counter()
    seen = sum(len(labels) for _, labels in batches)
    assert seen == count
    return count / (time.perf_counter() - start)


def compare(name: str, data: ImageData, opponent: Dataset[Any], limit: float | None) -> dict[str, Any]:
    """One row: median speeds of both sides, measured in turns."""
    ours = ImageLoader(data, batch_size=BATCH, augment=CIFAR10.augment)
    theirs = DataLoader(opponent, batch_size=BATCH, shuffle=True, num_workers=2, persistent_workers=True)
    sides: dict[str, tuple[Iterable[Any], list[float]]] = {"ours": (ours, []), "theirs": (theirs, [])}
    for turn in range(ROUNDS + 1):
        for batches, speeds in sides.values():
            speed = images_per_second(batches, len(data))
            speeds.extend([speed] if turn else [])  # the first turn starts the workers
    fast, slow = (median(speeds) for _, speeds in sides.values())
    ratio = fast / slow
    bound = "" if limit is None else f" (at least {limit:g})"
    print(f"{name}: {fast:,.0f} images/s against {slow:,.0f}, ratio {ratio:.1f}{bound}")
    return {"name": name, "ratio": ratio, "limit": limit, "ok": limit is None or ratio >= limit}


def real_folder() -> Path | None:
    """The training images of CIFAR-10 as JPEG files, where they are at hand."""
    root = os.environ.get("PROTOAT_DATA")
    folder = Path(root or "") / "cifar10-images"
    return folder if root and folder.is_dir() else None


def main() -> list[dict[str, Any]]:
    """Measures, prints a line for each comparison and returns them as rows."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return measure()
    finally:
        torch.set_num_threads(threads)


def measure() -> list[dict[str, Any]]:
    """All rows, at the present number of threads."""
    folder = real_folder()
    if folder is None:
        pixels = torch.randint(256, (IMAGES, 3, 32, 32), dtype=torch.uint8)
        data = ImageData(pixels, torch.arange(IMAGES) % 10, tuple("0123456789"))
    else:
        everything = ImageFolder(path=folder).load("train")
        data = everything.subset(torch.randperm(len(everything))[:IMAGES])
    rows = [compare("augmented CIFAR images, DataLoader over arrays", data, InMemoryCIFAR(data), LIMIT)]
    if folder is not None:
        files = datasets.ImageFolder(str(folder / "test"), TRANSFORM)
        data = ImageFolder(path=folder).load("test")
        rows.append(compare("augmented CIFAR images, DataLoader over JPEG files", data, files, None))
    return rows


if __name__ == "__main__":
    raise SystemExit(0 if all(row["ok"] for row in main()) else 1)
