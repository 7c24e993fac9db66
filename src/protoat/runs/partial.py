"""Stores outcomes batch by batch, so that an interrupted evaluation resumes."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

import protoat
from protoat.errors import UserError
from protoat.records.files import check_kept
from protoat.runs.store import write
from protoat.storage.files import read_bytes, remove
from protoat.storage.parsing import MOST_BYTES, parse_json

logger = logging.getLogger(__name__)


class Partial:
    """A folder with a file for each measured batch, which appears whole or not at all; see `measurement.Saved`.

    Args:
        folder: made with the first batch.
        identity: whose outcomes these are; those of any other model, data or version are never read.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        self.identity = json.dumps([identity, protoat.__version__, torch.__version__], sort_keys=True)
        self._used: set[Path] = set()

    def get(self, key: str) -> tuple[str, float, Sequence[str]] | None:
        """Outcomes, seconds and alarms that were put under this key, or None."""
        path = self._path(key)
        try:
            content = parse_json(read_bytes(path, limit=MOST_BYTES))
            check_kept(content)
            kept = {key: value for key, value in content.items() if key != "sha256"}
            if content.get("sha256") != _seal(kept):
                raise UserError("it does not agree with its own checksum")
        except FileNotFoundError:
            return None
        except ValueError as error:
            logger.warning("%s is damaged, so its batch is measured again: %s", path, error)
            return None
        self._used.add(path)
        return kept["outcomes"], kept["seconds"], kept.get("alarms", ())

    def put(self, key: str, outcomes: str, seconds: float, alarms: Sequence[str]) -> None:
        """Keeps the outcomes of a batch.

        Raises:
            DiskError: the file cannot be written.
        """
        path = self._path(key)
        kept = {"outcomes": outcomes, "seconds": seconds, **({"alarms": [*alarms]} if alarms else {})}
        write(path, json.dumps({**kept, "sha256": _seal(kept)}))
        self._used.add(path)

    def clear(self) -> None:
        """Removes what was kept or taken up here, and the folder where nothing else is in it."""
        for path in self._used:
            remove(path)
        with suppress(OSError):
            self.folder.rmdir()

    def _path(self, key: str) -> Path:
        return self.folder / f"{sha256((self.identity + key).encode()).hexdigest()[:32]}.json"


def _seal(kept: Mapping[str, Any]) -> str:
    return sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
