"""Terminal tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from protoat.evaluation import Count
from protoat.evaluation.statistics import worst

__all__ = ["accuracy", "groups", "measurements", "print_table"]


def print_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]], *, text: int = 1) -> None:
    """Prints rows under columns; the first `text` columns are flush left, numbers flush right."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    table = Table()
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < text else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(title, style="bold", markup=False)
    console.print(table)


def accuracy(count: Count) -> str:
    """Percentage with its Wilson interval.

    >>> accuracy(Count(621, 1000))
    '62.1 [59.1, 65.1]'
    """
    low, high = count.interval
    return f"{100 * count.accuracy:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def groups(entry: Mapping[str, Any], kind: str) -> dict[str, Count]:
    """Counts of ``per_class`` or ``per_mode`` of one attack in ``evaluation.json``."""
    return {name: Count(**counts) for name, counts in entry[kind].items()}


def measurements(title: str, attacks: Mapping[str, Mapping[str, Any]]) -> None:
    """The ``attacks`` of an ``evaluation.json`` as a table."""
    rows = []
    for name, entry in attacks.items():
        count = Count(entry["correct"], entry["total"])
        low, high = count.interval
        lows = [worst(groups(entry, kind)) for kind in ("per_class", "per_mode")]
        speed = f"{count.total / entry['seconds']:.0f}" if entry["seconds"] else ""
        rows.append(
            [
                name,
                f"{100 * count.accuracy:.1f}",
                f"{100 * low:.1f} to {100 * high:.1f}",
                str(count.total),
                *(f"{group}: {100 * part.accuracy:.1f}" for group, part in lows),
                speed,
            ]
        )
    columns = ["attack", "accuracy %", "95 % interval", "images", "worst class", "worst mode", "images/s"]
    print_table(title, columns, rows)
