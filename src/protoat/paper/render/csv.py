"""Tables as raw numbers in CSV: a line for each cell and seed."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from protoat.names import csv_cell
from protoat.paper.tables.fill import Filled, Measured
from protoat.paper.tables.table import Cell, Line
from protoat.paper.tables.verdict import verdicts

_COLUMNS = [
    *("table", "row", "column", "data", "setup", "attack", "reading", "ours_only", "seed"),
    *("correct", "total", "interval_low", "interval_high", "number", "text", "verdict", "paper"),
    *("budget", "reproduction", "folder", "command"),
]
_WITHOUT_ATTACK = ("minutes", "overhead", "prototypes", "audit")
_REASON = {"no difference shown": "intervals overlap: no difference shown"}  # which is not a test


def to_csv(number: int, table: Filled) -> str:
    """Counts with Wilson's interval of each run, the paper's value, and of missing runs the command that does them."""
    out = io.StringIO()
    writer = csv.DictWriter(out, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for line in _lines(table):
        writer.writerow({"table": number, **{key: csv_cell(value) for key, value in line.items()}})
    return out.getvalue()


def _lines(table: Filled) -> Iterator[dict[str, object]]:
    judged = verdicts(table)
    missing = {task.job.identity: task.command(table.store) for task in table.missing()}
    for row, column, cell in table.cells():
        found = {value.seed: value for value in table.values(cell)}
        for seed in table.seeds:
            job = table.job(cell, seed)
            yield {
                **_about(table, row, column, cell),
                "seed": seed,
                **_numbers(found.get(seed)),
                "verdict": _REASON.get(judged.get(cell, ""), judged.get(cell, "")),
                "folder": str(job.folder(table.store)),
                "command": "" if seed in found else missing.get(job.identity, ""),
            }


def _about(table: Filled, row: Line, column: Line, cell: Cell) -> dict[str, object]:
    return {
        "row": row.label,
        "column": column.label,
        "data": cell.data.label,
        "setup": cell.setup.name,
        "attack": "" if cell.read in _WITHOUT_ATTACK else table.attack(cell),
        "reading": cell.read,
        "ours_only": row.ours or column.ours or not table.table.paper,
        "paper": table.table.printed(row, column) or "",
        "budget": table.budget.name,
        "reproduction": table.budget.reproduction,
    }


def _numbers(value: Measured | None) -> dict[str, object]:
    if value is None:
        return {}
    numbers: dict[str, object] = {"text": value.reading.text}
    if (count := value.reading.count) is not None:
        low, high = count.interval
        numbers |= {"correct": count.correct, "total": count.total, "interval_low": low, "interval_high": high}
    if value.reading.number is not None:
        numbers["number"] = value.reading.number
    if value.reading.outcome is not None:
        numbers["number"] = 100 * value.reading.outcome.value
    return numbers
