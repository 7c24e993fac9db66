"""The user's own pictures, one folder for each class."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from protoat.data.augment import Augment
from protoat.data.base import ImageData, Source, Split
from protoat.data.cache import decode_once, file_digests

__all__ = ["ImageFolder"]

_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_TEST_SHARE = 0.2
_TEST = ("test", "val", "valid", "validation")
_LIKE_HALVES = ("train", "training", *_TEST, "testing", "eval")


class _Picture(NamedTuple):
    path: Path
    class_name: str
    mode_name: str


class ImageFolder(Source):
    """Images from ``class/*.png``, or from ``class/mode/*.png``, where the inner folder names the mode.

    Classes and modes are sorted by name; a mode is called ``class/mode``, so inner folders of two classes may share a
    name. Any format of Pillow with 8 bits a channel will do, in any mix; where every file is grey the images have one
    channel, else three. Hidden files, symbolic links inside the folder, and files that are no images are passed over.

    Where `path` has a ``train`` and a ``test`` (or ``val``, ``valid``, ``validation``) folder, these are the splits.
    Otherwise the test split is a fifth of each mode, chosen by content and not by chance: the files with the smallest
    SHA-256. Copies of a file within a mode are always on the same side; a mode with two different files has at least
    one on each.

    Args:
        path: the folder: as it stands, or inside `root`. Default ``images``.
        image_size: scale and centre-crop every image to this many pixels a side; default: all must have one size.
        root: folder that holds data sets; default ``PROTOAT_DATA``, else ``~/.cache/protoat/data``.
        download: not used, your own images cannot be downloaded.

    Raises:
        ValueError: on loading: fewer than two classes, an empty class or mode folder, a class folder with both images
            and mode folders, train and test with different classes, a second half that goes by another name, images of
            mixed size, a file that cannot be read.
        DataNotFoundError: on loading: no such folder.

    The default augmentation suits photographs; switch it off where a mirror image means something else, as with digits.

    >>> ImageFolder(path="pictures", root="/data").location().as_posix()
    '/data/pictures'
    """

    augment = Augment(padding=4, flip=True)
    downloadable = False

    def __init__(
        self,
        *,
        path: Path | str = "images",
        image_size: int | None = None,
        root: Path | str | None = None,
        download: bool = False,
    ) -> None:
        super().__init__(root=root, download=download)
        if image_size is not None and image_size < 1:
            raise ValueError(f"image_size={image_size} must be at least 1 pixel")
        self.path = Path(path).expanduser()
        self.image_size = image_size

    def location(self) -> Path:
        return self.path if self.path.is_dir() else self.root / self.path

    def available(self) -> bool:
        return self.location().is_dir()

    def not_found(self) -> str:
        places = " nor ".join(dict.fromkeys([str(self.path), str(self.root / self.path)]))
        return f"there is no folder {places}; name one of your own images with --data.path (library: path=)"

    def read(self, split: Split) -> ImageData:
        folder = self.location()
        train, test = folder / "train", next((folder / name for name in _TEST if (folder / name).is_dir()), None)
        halves = [folder]
        if train.is_dir() and test is not None:
            halves = [train, test]
        else:
            _check_no_half(folder)
        found = [list(_pictures(half)) for half in halves]
        classes = [sorted({picture.class_name for picture in pictures}) for pictures in found]
        odd = set(classes[0]).symmetric_difference(classes[-1])
        if odd:
            raise ValueError(f"class {min(odd)!r} is in only one of {halves[0]} and {halves[-1]}")
        if len(classes[0]) < 2:
            raise ValueError(
                f"{halves[0]} has {len(classes[0])} class folders, expected at least two, each with its images"
            )
        pictures = [picture for half in found for picture in half]
        digests = file_digests([picture.path for picture in pictures])
        if len(found) == 2:
            held_out = [False] * len(found[0]) + [True] * len(found[1])
        else:
            held_out = _held_out([picture.mode_name for picture in pictures], digests)
        chosen = torch.tensor([index for index, out in enumerate(held_out) if out == (split == "test")])
        if not len(chosen):
            raise ValueError(f"{folder} has too few images to hold some out; give it a train and a test folder")
        mode_names = sorted({picture.mode_name for picture in pictures})
        class_at = {name: index for index, name in enumerate(classes[0])}
        mode_at = {name: index for index, name in enumerate(mode_names)}
        return ImageData(
            decode_once([picture.path for picture in pictures], digests, image_size=self.image_size),
            torch.tensor([class_at[picture.class_name] for picture in pictures]),
            tuple(classes[0]),
            torch.tensor([mode_at[picture.mode_name] for picture in pictures]),
            tuple(mode_names),
        ).subset(chosen)


def _check_no_half(folder: Path) -> None:
    """Refuses halves under other names, which would be classes: a ``training`` beside a ``test``, classes beside it."""
    inside = {child.name: [inner.name for inner in _children(child)[0]] for child in _children(folder)[0]}
    for name, classes in inside.items():
        if not classes or name.lower() not in _LIKE_HALVES:
            continue
        twin = next((other for other in inside if other != name and inside[other] == classes), None)
        if twin is not None:
            raise ValueError(
                f"{folder / name} has the same folders as {folder / twin}; if these are splits, call one train and the "
                f"other {' or '.join(_TEST)}; if they are classes, not {name}"
            )
        if set(classes) <= inside.keys() - {name}:
            raise ValueError(
                f"the folders of {folder / name} also stand beside it; if it is a split, move those into a folder "
                "train; if it is a class, call it otherwise"
            )


def _pictures(folder: Path) -> Iterator[_Picture]:
    for class_folder in _children(folder)[0]:
        name = class_folder.name
        mode_folders, files = _children(class_folder)
        if mode_folders and files:
            raise ValueError(
                f"class folder {class_folder} has images beside mode folders; put all of them into mode folders or none"
            )
        modes = {f"{name}/{mode.name}": (mode, _children(mode)[1]) for mode in mode_folders}
        for mode_name, (holder, paths) in (modes or {name: (class_folder, files)}).items():
            if not paths:
                raise ValueError(
                    f"class folder {holder} has no images ({' '.join(_SUFFIXES)}; links are not followed); "
                    "add some or delete it"
                )
            yield from (_Picture(path, name, mode_name) for path in paths)


def _children(folder: Path) -> tuple[list[Path], list[Path]]:
    """Sub-folders and image files, sorted by name."""
    with os.scandir(folder) as entries:
        seen = [entry for entry in entries if not entry.name.startswith(".") and not entry.is_symlink()]
    folders = sorted(entry.name for entry in seen if entry.is_dir())
    files = sorted(entry.name for entry in seen if entry.is_file() and entry.name.lower().endswith(_SUFFIXES))
    return [folder / name for name in folders], [folder / name for name in files]


def _held_out(mode_names: list[str], digests: list[bytes]) -> list[bool]:
    """For each image whether it is a test image; see `ImageFolder` for the rule."""
    contents: dict[str, set[bytes]] = defaultdict(set)
    for mode, digest in zip(mode_names, digests, strict=True):
        contents[mode].add(digest)
    smallest = {
        mode: set(sorted(found)[: max(1, round(_TEST_SHARE * len(found)))] if len(found) > 1 else [])
        for mode, found in contents.items()
    }
    return [digest in smallest[mode] for mode, digest in zip(mode_names, digests, strict=True)]
