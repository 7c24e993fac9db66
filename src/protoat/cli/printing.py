"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import zip_longest
from typing import Any, Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from protoat.cli.say import is_wanted, keep, keep_table, say
from protoat.evaluation import AttackReport
from protoat.evaluation.probe import Probe
from protoat.evaluation.record import WORST_CASE, Evaluation
from protoat.evaluation.report import lowest_columns
from protoat.names import printable


def print_table(
    title: str,
    columns: Iterable[str],
    rows: Iterable[Iterable[str]],
    *,
    text: int = 1,
    names: Collection[str] | None = None,
) -> None:
    """Prints rows under columns.

    Args:
        text: the first so many columns are flush left, numbers flush right.
        names: the columns of names, which ``--json`` leaves as text; default: the first one.
    """
    columns = list(columns)
    if is_wanted():
        keep_table(title, columns, map(list, rows), columns[:1] if names is None else names)
        return
    console = Console()
    on_terminal = console.is_terminal
    if not on_terminal:
        console = Console(width=160)
    cells = [[printable(cell, lines=True) for cell in row] for row in rows]
    widths = [max(map(_width, column), default=0) for column in zip_longest(*cells, fillvalue="")]
    widths += [0] * (len(columns) - len(widths))
    full = [max(width, _width(column)) for width, column in zip(widths, columns, strict=True)]
    whole = sum(full) + 3 * len(full) + 1
    # On a terminal narrower than the table, drop the lines between columns, and wrap headings rather than cells.
    narrow = on_terminal and whole > console.width
    least = [max(width, *map(cell_len, column.split() or [""])) for width, column in zip(widths, columns, strict=True)]
    room = console.width - sum(least) - 2 * len(columns)
    kept = narrow and room >= 0
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0)) if narrow else Table()
    for index, column in enumerate(columns):
        justify: Literal["left", "right"] = "left" if index < text else "right"
        wider = min(max(room, 0), full[index] - least[index])
        room -= wider
        width = least[index] + wider if kept else None
        table.add_column(Text(printable(column)), justify=justify, overflow="fold", width=width)
    for row in cells:
        table.add_row(*map(Text, row))  # as `Text`, because brackets in names of folders and classes are no markup
    console.print(Text(printable(title), style="bold"))
    console.print(table)


def _width(cell: str) -> int:
    return max(map(cell_len, cell.split("\n")))


def measurements(name: str, record: Evaluation) -> None:
    """An evaluation as a table, the worst case in its last row."""
    keep("evaluation", _without_outcomes(record.to_json()))
    subject = record.subject
    title = f"{name}: {subject.weights}, {subject.images} images of {subject.data}"
    if record.worst_case is not None and subject.threat is not None:
        title += f", {subject.threat.norm} {subject.threat.eps:.4g}"
    columns = ["attack", "accuracy %", "95 % interval", "images", *lowest_columns(record.entries), "images/s"]
    rows = [_row(attack, found) for attack, found in record.entries.items()]
    if times := record.measured:
        columns.append("measured")
        rows = [[*row, time] for row, time in zip(rows, times.values(), strict=True)]
    print_table(title, columns, rows)
    if times:
        say("earlier: kept from a measurement before the latest, of the same weights, images and radius")
    for attack, found in record.attacks.items():
        if found.alarms:
            say(f"{attack} went on to AutoAttack on all images still robust: {'; '.join(found.alarms)}")
        elif found.alarms is not None:
            say(f"{attack} raised no alarm, so it did not go on to AutoAttack")
    if left_out := record.attacks.keys() - record.entering:
        say(f"not in the worst case, being outside this threat model: {', '.join(sorted(left_out))}")


def _without_outcomes(value: Any) -> Any:
    """A record without what it says of each image."""
    if isinstance(value, dict):
        return {key: _without_outcomes(entry) for key, entry in value.items() if key != "outcomes"}
    return value


def linear_heads(name: str, probe: Probe) -> None:
    """Heads on the trained encoder and on a random one as a table."""
    title = f"{name}: linear heads on {probe.subject.weights}, accuracy % on test images of {probe.subject.data}"
    print_table(title, *probe.table, text=2)


def _row(name: str, found: AttackReport) -> list[str]:
    count, (low, high) = found.count, found.count.interval
    return [
        name,
        f"{100 * count.accuracy:.1f}",
        f"{100 * low:.1f} to {100 * high:.1f}",
        str(count.total),
        *found.lowest,
        f"{count.total / found.seconds:,.0f}" if found.seconds and name != WORST_CASE else "",  # it took no time
    ]
