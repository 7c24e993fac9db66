"""Tiny ImageNet in its official folder format."""

from __future__ import annotations

from pathlib import Path

import torch

from protoat.arguments import check_whole
from protoat.data.augment import Augment
from protoat.data.base import ImageData, Source, Split
from protoat.data.cache import decode_once, file_digests
from protoat.errors import UserError
from protoat.storage.scratch import scratch

_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
_CLASSES, _VALIDATION_IMAGES = 200, 50


class TinyImageNet(Source):
    """Colour photographs of 64x64 pixels in 200 classes, in ``root/tiny-imagenet-200``.

    ``"test"`` is the official validation folder (200 x 50 images, checked), because the labels of the official test
    folder are not public. ``"train"`` takes the images it finds, 200 x 500 in the full set. Classes are in the order of
    their WordNet ids and carry their first name in ``words.txt``.

    Args:
        image_size: scale every image to this many pixels a side; default: 64, as they are.
        root: folder that holds data sets; default ``PROTOAT_DATA``, else ``~/.cache/protoat/data``.
        download: fetch missing files when loading (default False).

    Raises:
        ValueError: an `image_size` below 1.

    Source: Le and Yang, CS 231N, Stanford, 2015.

    >>> TinyImageNet(root="/data").location().as_posix()
    '/data/tiny-imagenet-200'
    """

    augment = Augment(padding=4, flip=True)

    def __init__(
        self, *, image_size: int | None = None, root: Path | str | None = None, download: bool = False
    ) -> None:
        super().__init__(root=root, download=download)
        if image_size is not None:
            check_whole(image_size=image_size)
        self.image_size = image_size

    def location(self) -> Path:
        return self.root / "tiny-imagenet-200"

    def available(self) -> bool:
        files = ("wnids.txt", "words.txt", "val/val_annotations.txt")
        return all((self.location() / name).is_file() for name in files)

    def fetch_files(self) -> None:
        if self.available():
            return
        from torchvision.datasets.utils import download_and_extract_archive  # takes seconds

        with scratch(self.location()) as part:
            if self.available():
                return  # another process was at it
            part.mkdir()
            download_and_extract_archive(_URL, str(part), md5=_MD5, remove_finished=True)
            (part / self.location().name).rename(self.location())

    def read(self, split: Split) -> ImageData:
        folder = self.location()
        ids = sorted((folder / "wnids.txt").read_text(encoding="utf-8").split())
        if len(ids) != _CLASSES:
            raise UserError(f"{folder / 'wnids.txt'} lists {len(ids)} classes, expected {_CLASSES}")
        rows = (row.split("\t") for row in (folder / "words.txt").read_text(encoding="utf-8").splitlines())
        words = {row[0]: row[-1].split(",")[0].strip() for row in rows}
        files = self._train(ids) if split == "train" else self._validation(ids)
        paths = [path for paths in files.values() for path in paths]
        images = decode_once(paths, file_digests(paths), image_size=self.image_size)
        counts = torch.tensor([len(paths) for paths in files.values()])
        labels = torch.arange(_CLASSES).repeat_interleave(counts)
        return ImageData(images, labels, tuple(words.get(wnid, wnid) for wnid in ids))

    def _train(self, ids: list[str]) -> dict[str, list[Path]]:
        folders = {wnid: self.location() / "train" / wnid / "images" for wnid in ids}
        files = {wnid: sorted(folder.glob("*.JPEG")) for wnid, folder in folders.items()}
        for wnid, paths in files.items():
            if not paths:
                raise UserError(f"class folder {folders[wnid]} has no images (*.JPEG); get the set again")
        return files

    def _validation(self, ids: list[str]) -> dict[str, list[Path]]:
        annotations = self.location() / "val" / "val_annotations.txt"
        files: dict[str, list[Path]] = {wnid: [] for wnid in ids}
        for number, row in enumerate(annotations.read_text(encoding="utf-8").splitlines(), start=1):
            name, wnid = [*row.split("\t"), ""][:2]
            if wnid not in files:
                raise UserError(f"{annotations}, line {number}: {wnid!r} is not a class of wnids.txt")
            files[wnid].append(self.location() / "val" / "images" / name)
        for wnid, paths in files.items():
            found = sum(path.is_file() for path in paths)
            if not found == len(paths) == _VALIDATION_IMAGES:
                raise UserError(
                    f"class {wnid} has {len(paths)} validation images in {annotations} and {found} of them on disk, "
                    f"expected {_VALIDATION_IMAGES}; get the set again"
                )
        return files
