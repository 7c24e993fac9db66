"""Report sections on accuracy: overall, by class, by mode, linear probes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from protoat.evaluation import AttackReport
from protoat.evaluation.record import WORST_CASE
from protoat.evaluation.report import lowest_columns
from protoat.evaluation.statistics import Count, weakest_first
from protoat.reports.blocks import Block, Grid, Section, Text
from protoat.runs.records import Records

_SHOWN = 40


def attacks(records: Records) -> Section:
    """Accuracy under each attack, with intervals, and everything that defines the attack."""
    blocks: list[Block] = list(_linear_heads(records))
    record = records.evaluation
    if record is None:
        blocks = blocks or [Text("Not measured: there is no evaluation.json.", "missing")]
        return Section("attacks", "Attacks", blocks)
    rows: list[list[str | Count]] = [[name, found.count, *_cells(found)] for name, found in record.entries.items()]
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
    return Section("attacks", "Attacks", blocks)


def _cells(found: AttackReport) -> list[str]:
    return [str(found.count.correct), str(found.count.total), *found.lowest, f"{found.seconds:.1f}"]


def _linear_heads(records: Records) -> Iterator[Grid]:
    """What linear heads read off a pre-trained encoder and off a random one."""
    probe = records.run.probe if records.run is not None else None
    if probe is None:
        return
    yield Grid("Linear heads on the frozen encoder: accuracy % with its 95 % interval", *probe.table, text=2)


def groups(records: Records) -> Section:
    """Accuracy of each class and each mode, clean and in the worst case."""
    record = records.evaluation
    if record is None or record.worst_case is None:
        return Section("modes", "Classes and modes", [Text("Not measured: there is no worst case.", "missing")])
    shown = {name: found for name, found in record.entries.items() if name in ("clean", WORST_CASE)}
    blocks: list[Block] = []
    if not record.worst_case.has_modes:
        blocks.append(Text("No modes are known beside the classes."))
    else:
        blocks += _of_groups("mode", {name: found.per_mode for name, found in shown.items()})
    blocks += _of_groups("class", {name: found.per_class for name, found in shown.items()})
    return Section("modes", "Classes and modes", blocks)


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
