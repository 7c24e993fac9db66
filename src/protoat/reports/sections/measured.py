"""Report sections on accuracy: overall, by class, by mode, linear probes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping

from protoat.evaluation.record import WORST_CASE
from protoat.evaluation.report import lowest_columns
from protoat.evaluation.statistics import Count, weakest_first
from protoat.reports.blocks import Block, Grid, Text
from protoat.runs.records import Records

_SHOWN = 40


def attacks(records: Records) -> list[Block]:
    """Accuracy under each attack, with intervals, and everything that defines the attack."""
    blocks: list[Block] = []
    if records.run is not None and (probe := records.run.probe) is not None:
        blocks.append(
            Grid("Linear heads on the frozen encoder: accuracy % with its 95 % interval", *probe.table, text=2)
        )
    record = records.evaluation
    if record is None:
        return blocks or [Text("Not measured: there is no evaluation.json.", "missing")]
    rows: list[list[str | Count]] = [
        [name, found.count, *map(str, found.count), *found.lowest, f"{found.seconds:.1f}"]
        for name, found in record.entries.items()
    ]
    columns = ["attack", "accuracy %", "right", "images", *lowest_columns(record.entries), "seconds"]
    if times := record.measured:
        columns.append("measured")
        rows = [[*row, times[name]] for row, name in zip(rows, record.entries, strict=True)]
    blocks.append(Grid("Accuracy under attack, with Wilson's 95 % interval", columns, rows))
    if times:
        kept = "Earlier: kept from a measurement before the latest, of the same weights, images and radius."
        blocks.append(Text(kept))
    if outside := [name for name in record.attacks if name not in record.entering]:
        blocks.append(Text(f"Not in the worst case, as they are outside this threat model: {', '.join(outside)}."))
    parameters = [[name, json.dumps(found.parameters)] for name, found in record.attacks.items()]
    blocks.append(Grid("Everything that defines the attacks", ["attack", "parameters"], parameters, 2, folded=True))
    return blocks


def groups(records: Records) -> list[Block]:
    """Accuracy of each class and each mode, clean and in the worst case."""
    record = records.evaluation
    if record is None or record.worst_case is None:
        return [Text("Not measured: there is no worst case.", "missing")]
    shown = {name: found for name, found in record.entries.items() if name in ("clean", WORST_CASE)}
    modes: Iterable[Block] = [Text("No modes are known beside the classes.")]
    if record.worst_case.has_modes:
        modes = _of_groups("mode", {name: found.per_mode for name, found in shown.items()})
    return [*modes, *_of_groups("class", {name: found.per_class for name, found in shown.items()})]


def _of_groups(title: str, found: Mapping[str, Mapping[str, Count]]) -> Iterator[Grid]:
    """A table of all groups, those with the lowest worst case first; of many, the rest is folded."""
    order = weakest_first(found[WORST_CASE])
    rows: list[list[str | Count]] = [
        [name, *(counts[name] for counts in found.values()), str(found[WORST_CASE][name].total)] for name in order
    ]
    columns = [title, *(f"{name} %" for name in found), "images"]
    yield Grid(f"Accuracy of each {title}, the weakest first, with Wilson's 95 % interval", columns, rows[:_SHOWN])
    if rows[_SHOWN:]:
        yield Grid("The same, of the others", columns, rows[_SHOWN:], folded=True)
