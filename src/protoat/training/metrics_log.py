"""``metrics.jsonl``, TensorBoard and Accelerate's trackers."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import TensorBoardTracker

from protoat.storage.files import check_no_links
from protoat.storage.manifest import Log
from protoat.training.files import together

__all__ = ["MetricsLog"]


class MetricsLog:
    """Writes what each epoch brought.

    Args:
        out: folder of the run; None writes no files.
        history: lines of the epochs a resumed run has behind it. The file is cut back to them.
        tensorboard: also write ``out/tensorboard`` when TensorBoard is installed.
    """

    def __init__(
        self, out: Path | None, history: list[dict[str, Any]], accelerator: Accelerator, *, tensorboard: bool
    ) -> None:
        self.path = None if out is None else out / "metrics.jsonl"
        self.accelerator = accelerator
        self.wants_board = tensorboard and out is not None and find_spec("tensorboard") is not None
        self.board: TensorBoardTracker | None = None
        if self.path is not None:
            together(lambda: self._begin(history), f"write {self.path}", accelerator)
        if self.wants_board and out is not None:
            board = out / "tensorboard"  # where files are made by others, by names that can be guessed
            together(lambda: check_no_links(board, within=out), f"write into {board}", accelerator)

    def append(self, line: dict[str, Any]) -> None:
        """Adds the line of one epoch; what a kill leaves of it is cut off when the run goes on."""
        numbers = _numbers(line)
        self.accelerator.log(numbers, step=line["epoch"])
        if self.wants_board and self.board is None:
            assert self.path is not None
            # What an interrupted run wrote after its last checkpoint is written again.
            self.board = TensorBoardTracker("tensorboard", str(self.path.parent), purge_step=line["epoch"])
            self.board.start()
        if self.board is not None:
            self.board.log(numbers, step=line["epoch"])
        if self.path is not None:
            together(lambda: self._write(line), f"write {self.path}", self.accelerator)

    def _begin(self, history: list[dict[str, Any]]) -> None:
        assert self.path is not None
        self._log = Log(self.path, "".join(map(_line, history)).encode())

    def _write(self, line: dict[str, Any]) -> None:
        self._log.append(_line(line).encode())

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.board is not None:
            self.board.finish()


def _line(line: dict[str, Any]) -> str:
    return json.dumps(line) + "\n"


def _numbers(line: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a line, those of nested ones behind ``name/``."""
    flat: dict[str, float] = {}
    for key, value in line.items():
        if isinstance(value, dict):
            flat |= _numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float):
            flat[f"{prefix}{key}"] = value
    return flat
