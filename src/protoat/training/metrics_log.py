"""Writes ``metrics.jsonl`` and reports each epoch to the trackers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from protoat.storage.manifest import Log
from protoat.training.files import together
from protoat.training.tracked_numbers import numbers
from protoat.training.trackers import Trackers


class MetricsLog:
    """Writes what each epoch brought.

    Args:
        out: folder of the run; None writes no files.
        history: lines of the epochs a resumed run has behind it. The file is cut back to them.
        trackers: of the run, which begin.
        class_names: of the training images, where they are known.
    """

    def __init__(
        self,
        out: Path | None,
        history: list[dict[str, Any]],
        accelerator: Accelerator,
        trackers: Trackers,
        class_names: Sequence[str] = (),
    ) -> None:
        self.path = None if out is None else out / "metrics.jsonl"
        self.accelerator = accelerator
        self.trackers = trackers
        self.class_names = class_names
        if self.path is not None:
            together(lambda: self._begin(history), f"write {self.path}", accelerator)
        together(trackers.begin, "begin trackers", accelerator)

    def append(self, line: dict[str, Any], by_mode: Mapping[str, Mapping[str, float]]) -> None:
        """Adds the line of one epoch; what a kill leaves of it is cut off when the run goes on.

        Args:
            line: of ``metrics.jsonl``.
            by_mode: accuracies on held-out images of each mode, for trackers.
        """
        told = numbers(line, self.class_names) | numbers({"validation": by_mode})
        self.accelerator.log(told, step=line["epoch"])
        together(lambda: self.trackers.log(told, line["epoch"]), "tell trackers", self.accelerator)
        if self.path is not None:
            together(lambda: self._write(line), f"write {self.path}", self.accelerator)

    def _begin(self, history: list[dict[str, Any]]) -> None:
        assert self.path is not None
        self._log = Log(self.path, "".join(map(_line, history)).encode())

    def _write(self, line: dict[str, Any]) -> None:
        self._log.append(_line(line).encode())


def _line(line: dict[str, Any]) -> str:
    return json.dumps(line) + "\n"
