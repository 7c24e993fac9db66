"""Terminal tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from protoat.cli.say import say
from protoat.evaluation.statistics import count_of
from protoat.names import printable
from protoat.reports.records import heads_of, interval_text, lowest

__all__ = ["linear_heads", "measurements", "print_table"]


def print_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]], *, text: int = 1) -> None:
    """Prints rows under columns; the first `text` columns are flush left, numbers flush right."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    table = Table()
    for index, column in enumerate(columns):
        table.add_column(Text(printable(column)), justify="left" if index < text else "right", overflow="fold")
    for row in rows:
        # As `Text`, because brackets in names of folders and classes are no markup.
        table.add_row(*(Text(printable(cell, lines=True)) for cell in row))
    console.print(Text(printable(title), style="bold"))
    console.print(table)


def measurements(name: str, record: Mapping[str, Any]) -> None:
    """An ``evaluation.json`` as a table, the worst case in its last row."""
    subject, worst_case = record["subject"], record.get("worst_case")
    rows = [_row(attack, entry) for attack, entry in record["attacks"].items()]
    title = f"{name}: {subject['weights']}, {subject['images']} images of {subject['data']}"
    if worst_case is not None:
        rows.append(_row("worst case", worst_case))
        title += f", {subject['threat']['norm']} {subject['threat']['eps']:.4g}"
    columns = ["attack", "accuracy %", "95 % interval", "images", "worst class", "worst mode", "images/s"]
    print_table(title, columns, rows)
    left_out = record["attacks"].keys() - (worst_case or {"parameters": {"attacks": []}})["parameters"]["attacks"]
    if worst_case is not None and left_out:
        say(f"not in the worst case, being outside this threat model: {', '.join(sorted(left_out))}")


def linear_heads(name: str, record: Mapping[str, Any]) -> None:
    """A ``probe.json`` as a table: heads on the trained encoder and on a random one."""
    columns, rows = heads_of(record)
    subject = record["subject"]
    title = f"{name}: linear heads on {subject['weights']}, accuracy % on test images of {subject['data']}"
    print_table(title, columns, rows, text=2)


def _row(name: str, entry: Mapping[str, Any]) -> list[str]:
    count = count_of(entry)
    return [
        name,
        f"{100 * count.accuracy:.1f}",
        interval_text(count),
        str(count.total),
        *lowest(entry),
        f"{count.total / entry['seconds']:,.0f}" if entry["seconds"] else "",
    ]
