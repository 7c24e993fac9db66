"""An inventory of a data set: images per class and mode, skipped files, duplicates, leaks between splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from protoat.data.base import ImageData, Source

_AT_ONCE = 1024  # images
_SHOWN = 8  # classes, or kinds of files, that one line names


@dataclass(frozen=True)
class Inventory:
    """What was found of a data set.

    Attributes:
        splits: where each split is from, by its name: a folder, or the rule by which images were held out.
        images: for each split, how many images of each mode; modes are the classes where there are no finer ones.
        left_out: how many files or folders were not read, by the reason.
        repeated: images of the other splits whose very pixels are also in train, by split.
        in_two_classes: images whose very pixels also stand in another class.
    """

    splits: dict[str, str]
    images: dict[str, dict[str, int]]
    left_out: dict[str, int]
    repeated: dict[str, int]
    in_two_classes: int

    def __str__(self) -> str:
        parts = [f"{split} ({self.splits[split]}) {_counts(images)}" for split, images in self.images.items()]
        if self.left_out:
            parts.append(f"left out: {_some([f'{count} {reason}' for reason, count in self.left_out.items()])}")
        return "; ".join([*parts, *self.leaks])

    @property
    def leaks(self) -> list[str]:
        """What makes a measured accuracy higher, or lower, than it would be on new images; a sentence for each."""
        found = [
            f"{count} of {sum(self.images[split].values())} {split} images are also in train, pixel for pixel"
            for split, count in self.repeated.items()
            if count
        ]
        if self.in_two_classes:
            found.append(f"{self.in_two_classes} images stand in two classes, pixel for pixel")
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a record."""
        return {**asdict(self), "leaks": self.leaks}


def inventory_of(
    data: ImageData, split_of: Sequence[str], splits: Mapping[str, str], left_out: Mapping[str, int] | None = None
) -> Inventory:
    """Counts images and looks for copies of their pixels.

    Args:
        data: images of all splits.
        split_of: (N,) for each image the name of its split, one of `splits`.
        splits: see `Inventory`; train comes first.
        left_out: see `Inventory`.

    >>> x, y = torch.tensor([0, 1, 1]).byte().view(3, 1, 1, 1), torch.tensor([0, 1, 1])
    >>> data = ImageData(x, y, ("a", "b"))
    >>> print(inventory_of(data, ["train", "train", "test"], {"train": "train", "test": "test"}))
    train (train) 2: a 1, b 1; test (test) 1: a 0, b 1; 1 of 1 test images are also in train, pixel for pixel
    """
    contents = list(_contents(data.images))
    label_of: dict[bytes, int] = {}
    disputed = {
        content
        for content, label in zip(contents, data.labels.tolist(), strict=True)
        if label_of.setdefault(content, label) != label
    }
    pairs = list(zip(contents, split_of, strict=True))
    trained = {content for content, split in pairs if split == "train"}
    repeated = Counter(split for content, split in pairs if split != "train" and content in trained)
    counts = {}
    for split in splits:
        chosen = torch.tensor([own == split for own in split_of], dtype=torch.bool)
        found = torch.bincount(data.modes[chosen], minlength=len(data.mode_names)).tolist()
        counts[split] = dict(zip(data.mode_names, found, strict=True))
    return Inventory(
        dict(splits),
        counts,
        dict(left_out or {}),
        {split: repeated[split] for split in splits if split != "train"},
        sum(content in disputed for content in contents) if disputed else 0,
    )


def _contents(images: Tensor) -> Iterator[bytes]:
    """SHA-256 of the pixels of each image."""
    for part in images.split(_AT_ONCE):
        yield from (sha256(row).digest() for row in part.contiguous().flatten(1).numpy())


def inventory_of_both(source: Source) -> Inventory | None:
    """That of a set whose images are quickly read: all of train and test; None where the files are not there."""
    if not source.available():
        return None
    train, test = source.load("train"), source.load("test")
    both = ImageData(
        torch.cat([train.images, test.images]),
        torch.cat([train.labels, test.labels]),
        train.class_names,
        torch.cat([train.modes, test.modes]),
        train.mode_names,
    )
    split_of = ["train"] * len(train) + ["test"] * len(test)
    return inventory_of(both, split_of, {"train": "official", "test": "official"})


def _counts(images: Mapping[str, int]) -> str:
    total, found = sum(images.values()), sorted(images.values())
    if len(images) <= _SHOWN:
        return f"{total}: {', '.join(f'{name} {count}' for name, count in images.items())}"
    return f"{total}: {len(images)} classes or modes of {found[0]} to {found[-1]}"


def _some(parts: Sequence[str]) -> str:
    return ", ".join(parts[:_SHOWN]) + f" and {len(parts) - _SHOWN} more kinds" * (len(parts) > _SHOWN)
