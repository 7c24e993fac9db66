"""Progress and time left of a command: a bar on a terminal, else a line each minute."""

from __future__ import annotations

import logging
import math
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column

from protoat.names import printable

logger = logging.getLogger(__name__)

_SILENCE = 60.0  # seconds between two lines


class Shown:
    """Shows how far the work within it is; nothing where a command is quiet."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        text = TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"))
        columns = (BarColumn(20), TaskProgressColumn(), TimeRemainingColumn(), text)
        self.bar = Progress(
            *columns,
            console=console,
            expand=True,
            transient=True,
            speed_estimate_period=math.inf,  # a step may take minutes
            disable=not (console.is_terminal and logger.isEnabledFor(logging.INFO)),
        )
        self.task = self.bar.add_task("")
        self.said, self.done = time.monotonic(), 0.0

    def __enter__(self) -> Shown:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def at(self, done: float, total: float, text: str) -> None:
        """`done` of `total` is done, and what `text` says comes next or has come out."""
        self.bar.update(self.task, completed=done, total=total, description=printable(text).replace("[", r"\["))
        passed = time.monotonic() - self.said
        if self.bar.disable and passed > _SILENCE and done > self.done:
            left = passed * (total - done) / (done - self.done)
            logger.info("%d %% done, about %.0f s left: %s", 100 * done // total, left, text)
            self.said, self.done = self.said + passed, done
