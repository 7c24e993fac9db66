"""Data sources and the images they load: `Source` and `ImageData`."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from protoat.arguments import check_choice, check_kind
from protoat.data.augment import Augment
from protoat.errors import MissingFileError, UserError, in_a_line
from protoat.functional.images import check_images, unit_pixels
from protoat.reprs import constructor_repr

if TYPE_CHECKING:
    from protoat.data.inventory import Inventory

UNKNOWN_MODE = "(unknown)"  # what a mode is called, alone or behind its class, whose images are of no known mode
#: A part of a data set.
Split = Literal["train", "test"]


class DataNotFoundError(MissingFileError):
    """The files of a data set are not where they are looked for, or could not be downloaded."""


@dataclass(frozen=True, eq=False, repr=False)
class ImageData:
    """Labelled images whose classes are made of known modes (sub-populations).

    Args:
        images: (N, C, H, W) uint8; or floats in [0, 1], where 8 bits do not hold them.
        labels: (N,) int64 in [0, number of classes).
        class_names: one distinct name for each class.
        modes: (N,) int64 in [0, number of modes); each mode lies inside one class. Default: the labels.
        mode_names: one distinct name for each mode. Default: the class names.

    Raises:
        ValueError: a wrong dtype or shape, labels or modes outside range, repeated names, a mode in two classes.

    >>> data = ImageData(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 1, 0]), ("cat", "dog"))
    >>> data
    ImageData(4 images of 1x8x8, 2 classes of 2, 2 modes)
    >>> ImageData(data.images, data.labels + 1, data.class_names)
    Traceback (most recent call last):
    protoat.errors.UserError: labels outside range: found 1 to 2, expected 0 to 1 for 2 classes
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    modes: Tensor = None  # type: ignore[assignment]  # replaced by the labels below
    mode_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_names", tuple(self.class_names))
        object.__setattr__(self, "mode_names", tuple(self.mode_names))
        if self.modes is None:
            object.__setattr__(self, "modes", self.labels)
            object.__setattr__(self, "mode_names", self.class_names)
        check_kind(Tensor, images=self.images, labels=self.labels, modes=self.modes)
        eight_bit = self.images.dtype == torch.uint8
        if self.images.dim() != 4 or not (eight_bit or self.images.is_floating_point()):
            raise UserError(
                f"images are {self.images.dtype} of shape {tuple(self.images.shape)}, "
                "expected shape (N, C, H, W) with torch.uint8 from 0 to 255, or floats in [0, 1]"
            )
        if not eight_bit:
            object.__setattr__(self, "images", check_images(self.images))
        _check_index("labels", self.labels, "classes", self.class_names, len(self.images))
        if len(self.modes) and not self.mode_names:
            raise UserError("modes are given and mode_names are not; give mode_names, one name for each mode")
        _check_index("modes", self.modes, "modes", self.mode_names, len(self.images))
        if not torch.equal(self.mode_class[self.modes], self.labels):
            raise UserError("a mode has images of two classes; give it another name in each class")

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        counts = self.counts
        low, high = (int(counts.min()), int(counts.max())) if len(counts) else (0, 0)
        size = "x".join(map(str, self.shape))
        classes = f"{self.num_classes} classes of {low if low == high else f'{low} to {high}'}"
        return f"ImageData({len(self)} images of {size}, {classes}, {len(self.mode_names)} modes)"

    @property
    def num_classes(self) -> int:
        """Number of classes, with or without images."""
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def pixels(self, rows: Tensor | slice = slice(None), device: torch.device | str | None = None) -> Tensor:
        """(M, C, H, W) images in [0, 1] at `rows`, as floats, where they are or on another device."""
        images = self.images[rows]
        return unit_pixels(images if device is None else images.to(device))

    @property
    def counts(self) -> Tensor:
        """(number of classes,) int64: images of each class."""
        return torch.bincount(self.labels, minlength=self.num_classes)

    @property
    def mode_class(self) -> Tensor:
        """(number of modes,) int64: the class each mode lies in, -1 for a mode without images."""
        owner = torch.full((len(self.mode_names),), -1, dtype=torch.int64, device=self.labels.device)
        owner[self.modes] = self.labels
        return owner

    def digest(self) -> str:
        """SHA-256 of images, labels and modes, with their names.

        >>> one, other = (ImageData(torch.full((1, 1, 2, 2), x).byte(), torch.tensor([0]), ("a",)) for x in (0, 1))
        >>> one.digest() == one.to("cpu").digest(), one.digest() == other.digest()
        (True, False)
        """
        total = sha256(repr((self.shape, self.class_names, self.mode_names)).encode())
        for part in (*self.images.split(1024), self.labels, self.modes):
            total.update(part.cpu().contiguous().numpy())
        return total.hexdigest()

    def subset(self, indices: Tensor) -> ImageData:
        """The images at `indices` ((M,) int64), in that order; class and mode names stay."""
        return replace(self, images=self.images[indices], labels=self.labels[indices], modes=self.modes[indices])

    def to(self, device: torch.device | str) -> ImageData:
        """The same data on another device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device), modes=self.modes.to(device))


def _check_index(what: str, values: Tensor, kind: str, names: tuple[str, ...], count: int) -> None:
    if values.dtype != torch.int64 or values.shape != (count,):
        raise UserError(
            f"{what} are {values.dtype} of shape {tuple(values.shape)}, expected torch.int64 of shape ({count},)"
        )
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated:
        raise UserError(f"names of {kind} repeat: {repeated[0]!r}")
    if count and (int(values.min()) < 0 or int(values.max()) >= len(names)):
        raise UserError(
            f"{what} outside range: found {int(values.min())} to {int(values.max())}, "
            f"expected 0 to {len(names) - 1} for {len(names)} {kind}"
        )


class Source(ABC):
    """A data set that can be looked for, downloaded and loaded. A subclass says where it is and reads it.

    Args:
        root: folder that holds data sets; default ``PROTOAT_DATA``, else ``~/.cache/protoat/data``.
        download: fetch missing files when loading (default False).

    Attributes:
        augment: what is done to training images unless a recipe says otherwise.
        downloadable: whether there is a place to download from.
        labelled: whether classes count, of which there must then be two; set to False for pre-training.
        background: colour under transparent pixels of its pictures; None is white.
    """

    augment: ClassVar[Augment] = Augment()
    downloadable: ClassVar[bool] = True
    labelled: bool = True
    background: str | None = None

    def __init__(self, *, root: Path | str | None = None, download: bool = False) -> None:
        self.root = Path(root or os.environ.get("PROTOAT_DATA") or "~/.cache/protoat/data").expanduser()
        self.download = download

    def __repr__(self) -> str:
        return constructor_repr(self)

    @property
    def name(self) -> str:
        """Name of the set in commands and reports."""
        return type(self).__name__

    @abstractmethod
    def location(self) -> Path | None:
        """Folder the set is looked for in; None where it comes with a Python package."""

    @abstractmethod
    def available(self) -> bool:
        """Whether the files are there. Their content is checked on loading."""

    @abstractmethod
    def read(self, split: Split) -> ImageData:
        """Reads files that are there; `load` is what users call."""

    def fetch_files(self) -> None:
        """Downloads the files to `location`; `fetch` is what users call."""
        raise NotImplementedError

    def load(self, split: Split) -> ImageData:
        """The training or test images.

        Args:
            split: ``"train"`` or ``"test"``. Images for choosing a checkpoint come out of train: `split_validation`.

        Raises:
            DataNotFoundError: the files are not there; the text says where they were looked for and what to do.
            ValueError: an unknown split, or files that cannot be read.
        """
        check_choice(Split, split=split)
        if not self.available():
            if not (self.download and self.downloadable):
                raise DataNotFoundError(self.not_found())
            self.fetch()
        return self.read(split)

    def load_validation(self) -> ImageData | None:
        """The images that the set itself holds out for choosing the best checkpoint; None where it has none.

        Raises:
            ValueError: files that cannot be read.
        """
        return None

    def inventory(self) -> Inventory | None:
        """What was found of the set, taken and left out, and which images it holds twice.

        None where the files are not there, or where looking would take long.

        Raises:
            ValueError: files that cannot be read.
        """
        return None

    def fetch(self) -> None:
        """Downloads the set to `location`; files that are there already and whole are kept.

        Raises:
            DataNotFoundError: it could not be downloaded.
        """
        if self.location() is None:
            return  # it came with a package
        if not self.downloadable:
            raise DataNotFoundError(self.not_found())
        try:
            self.fetch_files()
        except (OSError, RuntimeError) as error:
            raise DataNotFoundError(
                f"{self.name} could not be downloaded to {self.location()}: {in_a_line(error)}"
            ) from error

    def not_found(self) -> str:
        """What to tell a user whose files are missing: where they were looked for and what to do."""
        present = os.environ.get("PROTOAT_DATA") or "unset"
        text = f"{self.name} is not in {self.location()}; set PROTOAT_DATA (now {present}) to the folder that holds it"
        if self.downloadable:
            return f"{text}, or download it: protoat data {self.name} --download"
        return f"{text}; these are your own images, which --download cannot fetch"


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Turns whatever a file parser raises into one line that names the folder."""
    try:
        yield
    except Exception as error:
        raise UserError(
            f"files in {folder} are damaged ({in_a_line(error)}); delete the folder and get it again"
        ) from error
