"""What a table's numbers support: which rows are indistinguishable from the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from protoat.evaluation.compare import Seeds, overlap
from protoat.paper.tables.fill import Filled, Measured
from protoat.paper.tables.table import Cell, Line

Verdict = Literal["best", "no difference shown", "lower"]


def seeds_of(values: Sequence[Measured]) -> Seeds | None:
    """The accuracies in a cell; None where it holds none."""
    counts = tuple(value.reading.count for value in values if value.reading.count is not None)
    return Seeds(counts) if counts else None


@dataclass(frozen=True)
class Ranking:
    """Rows that were measured alike, against the best of them.

    Attributes:
        of: what was measured.
        best: heading of the highest.
        alike: headings of those whose intervals overlap with that of the best: no difference is shown.
        lower: headings of those whose intervals lie below.
    """

    of: Cell
    best: str
    alike: tuple[str, ...]
    lower: tuple[str, ...]


def rankings(table: Filled) -> list[tuple[Ranking, dict[Cell, Verdict]]]:
    """For each data set, attack and reading, the best of two rows or more, and a verdict for each cell."""
    groups: dict[tuple[object, ...], dict[Cell, tuple[str, Seeds]]] = {}
    for row, column, cell in table.cells():
        if (found := seeds_of(table.values(cell))) is not None:
            groups.setdefault((cell.data, cell.attack, cell.read), {})[cell] = (_heading(row, column), found)
    return [_ranking(group) for group in groups.values() if len(group) > 1]


def _ranking(group: dict[Cell, tuple[str, Seeds]]) -> tuple[Ranking, dict[Cell, Verdict]]:
    best = max(group, key=lambda cell: group[cell][1].mean)
    heading, highest = group[best]
    others = {cell: overlap(highest.interval, found.interval) for cell, (_, found) in group.items() if cell != best}
    alike, lower = (
        tuple(group[cell][0] for cell, same in others.items() if same is wanted) for wanted in (True, False)
    )
    verdict: dict[Cell, Verdict] = {cell: "no difference shown" if same else "lower" for cell, same in others.items()}
    return Ranking(best, heading, alike, lower), {best: "no difference shown" if alike else "best", **verdict}


def verdicts(table: Filled) -> dict[Cell, Verdict]:
    """For each cell that has something to be compared with."""
    return {cell: verdict for _, group in rankings(table) for cell, verdict in group.items()}


def _heading(row: Line, column: Line) -> str:
    """Which of the two says how training went."""
    return row.label if row.setup is not None or column.setup is None else column.label
