"""Data sets of Hugging Face: a folder, or the local cache of the `datasets` library."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

from protoat.data.base import DataNotFoundError, ImageData, reading
from protoat.data.hugging_face_columns import Columns
from protoat.data.own_images import OwnImages, Pictures, halves_of
from protoat.errors import UserError, in_a_line
from protoat.optional import optional

logger = logging.getLogger(__name__)


class HFDataset(OwnImages):
    """Images of a data set in the form of Hugging Face's `datasets`, ``--data HF:NAME``.

    It is looked for as a folder, in any form that `datasets` reads without code: saved by ``save_to_disk``, Parquet or
    Arrow files, ``imagefolder``; else in the local cache of `datasets`, where ``protoat data HF:NAME --download`` puts
    it. Nothing else asks the Hub.

    Pixels are read as those of `ImageFolder`. The order of classes is that of a column of class labels; other labels
    and modes are sorted, numbers by value. A mode is called ``class/mode``; a missing one is ``class/(unknown)``.

    Splits are ``train`` and ``test``, and ``validation`` (``valid``, ``val``), by which the best checkpoint is chosen;
    where there is no ``test``, that is the test split. Where there is neither, a fifth of each mode is, chosen by
    content as in `ImageFolder`. Other splits are left out.

    Args:
        path: a folder, or the name of a data set, such as ``ylecun/mnist``.
        subset: one of several configurations of a data set.
        image: column of pictures; default: the only one.
        label: column of labels; default: the only one of class labels, else ``label`` or ``labels``.
        mode: column of modes; default: modes are the classes.
        image_size: scale and centre-crop every image to this many pixels a side; default: all must have one size.
        background: colour under transparent pixels, such as black or #808080; default: white, as on a page.
        root: not used, `datasets` has a cache of its own (``HF_HOME``, ``HF_DATASETS_CACHE``).
        download: fetch it from the Hub where it is neither a folder nor cached (default False).

    Raises:
        ValueError: on loading: `datasets` is not installed, a column that is not there or of another kind, an image
            without a label, fewer than two classes, images of mixed size, one that cannot be read.
        DataNotFoundError: on loading: it is not there.

    >>> HFDataset(path="user/pictures", mode="style")
    HFDataset(path='user/pictures', subset=None, image=None, label=None, mode='style', image_size=None, \
background=None, root=..., download=False)
    """

    split_is = "split"

    def __init__(
        self,
        *,
        path: str = "",
        subset: str | None = None,
        image: str | None = None,
        label: str | None = None,
        mode: str | None = None,
        image_size: int | None = None,
        background: str | None = None,
        root: Path | str | None = None,
        download: bool = False,
    ) -> None:
        super().__init__(image_size=image_size, background=background, root=root, download=download)
        self.path = str(path)
        self.subset, self.image, self.label, self.mode = subset, image, label, mode
        self._splits: Mapping[str, Any] | None = None
        self._everything: tuple[ImageData, Sequence[str], Mapping[str, str]] | None = None

    @property
    def called(self) -> str:
        return self.path

    def location(self) -> Path:
        return self._folder if self.path and self._folder.is_dir() else _cache_folder()

    @property
    def _folder(self) -> Path:
        return Path(self.path).expanduser()

    def available(self) -> bool:
        return bool(self.path) and (self._folder.is_dir() or self._cached() is not None)

    def not_found(self) -> str:
        if not self.path:
            return "name the data set: --data HF:NAME (library: path=)"
        return (
            f"there is no folder {self.path}, and no data set of that name in {_cache_folder()}; download it: "
            f"protoat data HF:{self.path} --download"
        )

    def fetch_files(self) -> None:
        if not self.path:
            raise DataNotFoundError(self.not_found())
        datasets = _datasets()
        try:
            self._splits = _by_split(datasets.load_dataset(self.path, self.subset))
        except (ValueError, datasets.exceptions.DatasetsError) as error:
            raise DataNotFoundError(f"{self.path} could not be downloaded: {in_a_line(error)}") from error

    def _cached(self) -> Mapping[str, Any] | None:
        """The splits that the cache of `datasets` has, without a look at the Hub."""
        if self._splits is None:
            _datasets()
            cache = import_module("datasets.packaged_modules.cache.cache").Cache
            name = self.path.rpartition("/")[2]
            try:
                found = cache(
                    repo_id=self.path, dataset_name=name, config_name=self.subset, version="auto", hash="auto"
                )
                self._splits = _by_split(found.as_dataset())
            except (ValueError, OSError) as error:
                logger.debug("%s is not cached: %s", self.path, error)
        return self._splits

    def _loaded(self) -> Mapping[str, Any]:
        """The data set of each of its splits."""
        if self._splits is None and self._folder.is_dir():
            datasets = _datasets()
            saved = any((self._folder / name).is_file() for name in ("dataset_dict.json", "dataset_info.json"))
            with reading(self._folder):
                found = (
                    datasets.load_from_disk(str(self._folder))
                    if saved
                    else datasets.load_dataset(str(self._folder), self.subset)
                )
            self._splits = _by_split(found)
        found = self._splits or self._cached()
        if found is None:
            raise DataNotFoundError(self.not_found())
        return found

    def halves(self, left_out: Counter[str]) -> dict[str, str]:
        """The split of the data set that each of ours is."""
        names = list(self._loaded())
        if len(names) == 1:
            return {"train": names[0]}
        halves = halves_of(names)
        if not halves:
            raise UserError(f"{self.path} has the splits {', '.join(names)}, expected train and test")
        for name in names:
            if name not in halves.values():
                left_out[f"images of split {name}"] += len(self._loaded()[name])
        return halves

    def everything(self, left_out: Counter[str]) -> tuple[ImageData, Sequence[str], Mapping[str, str]]:
        if self._everything is not None:
            return self._everything
        halves = self.halves(left_out)
        tables = {own: self._loaded()[name] for own, name in halves.items()}
        columns = Columns(self.path, tables, image=self.image, label=self.label, mode=self.mode)
        if len(set(columns.labels)) < (2 if self.labelled else 1):
            raise UserError(
                f"{self.path} has {len(set(columns.labels))} classes in column {columns.label!r}, expected at least two"
            )
        files = columns.pictures((self._folder, _cache_folder()))
        found = Pictures(
            files,
            [sha256(file).digest() for file in files],
            columns.labels,
            columns.modes,
            [own for own, table in tables.items() for _ in range(len(table))],
            [f"image {place} of {self.path}" for place in range(len(files))],
        )
        self._everything = self.put_together(found, columns.class_names, halves)
        return self._everything


def _datasets() -> Any:
    return optional("datasets", "'protoat[datasets]'")


def _cache_folder() -> Path:
    """Where `datasets` keeps data sets, by its own rules."""
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    return Path(os.environ.get("HF_DATASETS_CACHE") or home / "datasets").expanduser()


def _by_split(found: Any) -> Mapping[str, Any]:
    return found if isinstance(found, Mapping) else {str(found.split or "train"): found}
