"""Outcomes of batches on disk, so that a measurement that was killed goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

import protoat
from protoat.experiments.store import write
from protoat.files import remove

__all__ = ["Partial"]


class Partial:
    """A folder with a file for each measured batch, which appears whole or not at all; see `protoat.evaluation.Saved`.

    Args:
        folder: made with the first batch.
        identity: whose outcomes these are; those of any other model, data or version are never read.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        self.identity = json.dumps([identity, protoat.__version__, torch.__version__], sort_keys=True)
        self._used: set[Path] = set()

    def get(self, key: str) -> tuple[str, float] | None:
        """Outcomes and seconds that were put under this key, or None."""
        path = self._path(key)
        if not path.exists():
            return None
        self._used.add(path)
        content = json.loads(path.read_text())
        return content["outcomes"], content["seconds"]

    def put(self, key: str, outcomes: str, seconds: float) -> None:
        """Keeps the outcomes of a batch.

        Raises:
            DiskError: the file cannot be written.
        """
        path = self._path(key)
        write(path, json.dumps({"outcomes": outcomes, "seconds": seconds}))
        self._used.add(path)

    def clear(self) -> None:
        """Removes what was kept or taken up here, and the folder where nothing else is in it."""
        for path in self._used:
            remove(path)
        with suppress(OSError):
            self.folder.rmdir()

    def _path(self, key: str) -> Path:
        return self.folder / f"{sha256((self.identity + key).encode()).hexdigest()[:32]}.json"
