"""The progress of training: a bar on a terminal, and a line for each epoch."""

from __future__ import annotations

import math

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from protoat.names import printable


class ProgressBar:
    """Batches done of the whole run, time left, and the present terms of the loss.

    Args:
        total: batches of the run.
        done: those a resumed run has behind it.
        show: None shows it on a terminal only, and elsewhere the lines of epochs alone; False shows neither.
    """

    def __init__(self, total: int, done: int, *, show: bool | None) -> None:
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[terms]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
        )
        self._says = show is not False
        visible = console.is_terminal if show is None else show
        self._bar = Progress(
            *columns,
            console=console,
            expand=True,
            transient=console.is_terminal,
            speed_estimate_period=math.inf,  # a step may take minutes
            disable=not visible,
        )
        self._task = self._bar.add_task("training", total=total, completed=done, terms="")

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, epoch: int, epochs: int, terms: dict[str, float]) -> None:
        """One batch is done."""
        text = "  ".join(f"{name} {value:.3f}" for name, value in terms.items())
        self._bar.update(self._task, advance=1, description=f"epoch {epoch}/{epochs}", terms=text)

    def say(self, line: str) -> None:
        """The line of an epoch; on a terminal it stays above the bar."""
        if self._says:
            console = self._bar.console
            console.print(Text(printable(line)), soft_wrap=not console.is_terminal)  # a file keeps its line
