"""Finds and reads the columns of a Hugging Face data set: pictures, labels and modes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from protoat.data.base import UNKNOWN_MODE
from protoat.data.listing import in_order
from protoat.errors import UserError
from protoat.spelling import argument

_LABELS = ("label", "labels", "fine_label", "target")


class Columns:
    """What a data set says of its images, those of one split after those of another.

    Args:
        name: of the data set, for messages.
        tables: the `datasets.Dataset` of each split, by its name.
        image, label, mode: columns; see `HFDataset`.

    Attributes:
        labels: the class of each image, by name.
        modes: the mode of each image, by name.
        class_names: in the order of labels.

    Raises:
        ValueError: a column that is not there or of another kind, several that could be meant, an image without label.
    """

    def __init__(
        self, name: str, tables: Mapping[str, Any], *, image: str | None, label: str | None, mode: str | None
    ) -> None:
        self.name = name
        self.tables = tables
        datasets = import_module("datasets")
        features = next(iter(tables.values())).features
        pictures = [key for key, kind in features.items() if isinstance(kind, datasets.Image)]
        self.image = self._column("image", image, pictures, pictures)
        labels = [key for key, kind in features.items() if isinstance(kind, datasets.ClassLabel) and key != mode]
        if len(labels) != 1:
            labels = [key for key in _LABELS if key in features][:1] or labels
        styles = None if mode is None else self._column("mode", mode, [], features)
        self.label = self._column("label", label, labels, features)
        self.labels = self._texts(self.label)
        self.modes = self.labels
        if styles is not None:
            told = self._texts(styles, missing=UNKNOWN_MODE)
            self.modes = [f"{name}/{own}" for name, own in zip(self.labels, told, strict=True)]
        names = getattr(features[self.label], "names", None)
        self.class_names = tuple(names or sorted(set(self.labels), key=in_order))

    def pictures(self, folders: Sequence[Path]) -> list[bytes]:
        """The file of each picture.

        Args:
            folders: those that may hold files, where the data set names some.

        Raises:
            ValueError: one is missing, lies elsewhere, or cannot be read.
        """
        as_files = import_module("datasets").Image(decode=False)
        found = []
        for split, table in self.tables.items():
            for place, row in enumerate(table.cast_column(self.image, as_files)[self.image]):
                if row is None:
                    raise UserError(f"image {place} of split {split} of {self.name} is missing")
                found.append(row["bytes"] if row["bytes"] is not None else self._file(Path(row["path"]), folders))
        return found

    def _file(self, path: Path, folders: Sequence[Path]) -> bytes:
        path = path.resolve()
        if not any(path.is_relative_to(folder.resolve()) for folder in folders):
            raise UserError(f"{self.name} names a picture outside of its folder, {path}, which is not read")
        try:
            return path.read_bytes()
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}") from error

    def _column(self, what: str, given: str | None, found: Sequence[str], fitting: Collection[str]) -> str:
        """The column that was named, or the only one that is `found`."""
        known = ", ".join(next(iter(self.tables.values())).features)
        if given is not None and given not in fitting:
            raise UserError(f"{self.name} has no column {given!r} of {what}s; its columns are {known}")
        if given is None and len(found) != 1:
            which = (
                f"several columns that could hold the {what}s, {', '.join(found)}" if found else f"no column of {what}s"
            )
            raise UserError(f"{self.name} has {which}; name one of {known} by {argument(what)}")
        return given or found[0]

    def _texts(self, column: str, *, missing: str | None = None) -> list[str]:
        """The values of a column as names; `missing` stands for none."""
        return [text for split, table in self.tables.items() for text in self._of_split(split, table, column, missing)]

    def _of_split(self, split: str, table: Any, column: str, missing: str | None) -> Iterator[str]:
        if column not in table.features:
            raise UserError(f"split {split} of {self.name} has no column {column!r}")
        names = getattr(table.features[column], "names", None)
        for place, value in enumerate(table[column]):
            if value is None or (names is not None and value < 0):
                if missing is None:
                    raise UserError(
                        f"image {place} of split {split} of {self.name} has no {column}; leave it out of the data set"
                    )
                yield missing
            elif isinstance(value, int | str):
                yield str(value) if names is None else names[value]
            else:
                raise UserError(f"column {column!r} holds {type(value).__name__}s, expected names or whole numbers")
