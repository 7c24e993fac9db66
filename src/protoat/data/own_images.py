"""The base class of sources of a user's own pictures: decoding, splits, order of classes and modes."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch

from protoat.data.augment import Augment
from protoat.data.base import ImageData, Source, Split
from protoat.data.cache import decode_once
from protoat.data.inventory import Inventory, inventory_of
from protoat.data.listing import in_order
from protoat.data.picture import colour_of
from protoat.errors import UserError
from protoat.spelling import setting

_TEST_SHARE = 0.2
_VALIDATION = ("validation", "valid", "val")
_BY_CONTENT = {"train": "four fifths by content", "test": "a fifth by content"}


class Pictures(NamedTuple):
    """All pictures of a source, and of each the SHA-256 of its file, its class, its mode and its split, by name."""

    files: Sequence[Path | bytes]
    digests: Sequence[bytes]
    classes: Sequence[str]
    modes: Sequence[str]
    splits: Sequence[str]
    names: Sequence[str] | None = None


class OwnImages(Source):
    """Pictures with classes and modes, in splits of their own, or split by content where there is a single one."""

    augment = Augment(padding=4, flip=True)
    split_is: ClassVar[str]  # what holds a split, for messages

    def __init__(
        self, *, image_size: int | None, background: str | None, root: Path | str | None, download: bool
    ) -> None:
        super().__init__(root=root, download=download)
        if image_size is not None and image_size < 1:
            raise UserError(f"{setting(image_size=image_size)} must be at least 1 pixel")
        if background is not None:
            colour_of(background)
        self.image_size = image_size
        self.background = background
        self._inventory: Inventory | None = None

    @property
    def called(self) -> str:
        """What messages call it."""
        return str(self.location())

    @abstractmethod
    def halves(self, left_out: Counter[str]) -> Mapping[str, Any]:
        """What holds each of our splits; a single one is split by content. Counts in `left_out` what is in no split."""

    @abstractmethod
    def everything(self, left_out: Counter[str]) -> tuple[ImageData, Sequence[str], Mapping[str, str]]:
        """The images of all splits, the split of each, and what each split is; see `put_together`."""

    def put_together(
        self, found: Pictures, class_names: Sequence[str], halves: Mapping[str, str]
    ) -> tuple[ImageData, Sequence[str], Mapping[str, str]]:
        """Decodes pictures, sorts their modes by class and name, and splits them where there is a single half."""
        class_at = {name: index for index, name in enumerate(class_names)}
        labels = [class_at[name] for name in found.classes]
        class_of = dict(zip(found.modes, labels, strict=True))
        mode_names = sorted(class_of, key=lambda mode: (class_of[mode], in_order(mode.rpartition("/")[2])))
        mode_at = {name: index for index, name in enumerate(mode_names)}
        data = ImageData(
            decode_once(
                found.files,
                found.digests,
                names=found.names,
                image_size=self.image_size,
                background=self.background,
            ),
            torch.tensor(labels),
            tuple(class_names),
            torch.tensor([mode_at[mode] for mode in found.modes]),
            tuple(mode_names),
        )
        if len(halves) > 1:
            return data, found.splits, halves
        return data, ["test" if out else "train" for out in held_out(found.modes, found.digests)], _BY_CONTENT

    def part(self, split: str) -> ImageData:
        """The images of a split, ``validation`` among them; there may be none."""
        left_out: Counter[str] = Counter()
        data, split_of, splits = self.everything(left_out)
        if self._inventory is None:
            self._inventory = inventory_of(data, split_of, splits, +left_out)
        return data.subset(torch.tensor([own == split for own in split_of]).nonzero()[:, 0])

    def read(self, split: Split) -> ImageData:
        data = self.part(split)
        if not len(data):
            raise UserError(
                f"{self.called} has too few images to hold some out; give it a train and a test {self.split_is}"
            )
        return data

    def load_validation(self) -> ImageData | None:
        return self.part("validation") if self.available() and "validation" in self.halves(Counter()) else None

    def inventory(self) -> Inventory | None:
        if self._inventory is None and self.available():
            self.part("train")
        return self._inventory


def halves_of(names: Collection[str]) -> dict[str, str]:
    """Which of the parts of a data set is each of our splits, by name; none where there is no train and test.

    Where there is no ``test``, the images for choosing a checkpoint are the test split.

    >>> halves_of(["train", "val", "test", "extra"]), halves_of(["train", "valid"]), halves_of(["cats", "dogs"])
    ({'train': 'train', 'test': 'test', 'validation': 'val'}, {'train': 'train', 'test': 'valid'}, {})
    """
    held = next((name for name in _VALIDATION if name in names), None)
    test = "test" if "test" in names else held
    if "train" not in names or test is None:
        return {}
    halves = {"train": "train", "test": test}
    return halves if held in (None, test) else {**halves, "validation": str(held)}


def held_out(mode_names: Sequence[str], digests: Sequence[bytes]) -> list[bool]:
    """For each image whether it is a test image; see `ImageFolder` for the rule."""
    contents: dict[str, set[bytes]] = defaultdict(set)
    for mode, digest in zip(mode_names, digests, strict=True):
        contents[mode].add(digest)
    smallest = {
        mode: set(sorted(found)[: max(1, round(_TEST_SHARE * len(found)))] if len(found) > 1 else [])
        for mode, found in contents.items()
    }
    return [digest in smallest[mode] for mode, digest in zip(mode_names, digests, strict=True)]
