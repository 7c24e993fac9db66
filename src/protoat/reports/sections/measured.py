"""Report sections on accuracy: overall, by class, by mode, linear probes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from protoat.evaluation import AttackReport
from protoat.evaluation.record import WORST_CASE
from protoat.evaluation.statistics import Count
from protoat.reports.blocks import Block, Chart, Grid, Section, Text
from protoat.reports.charts import accuracy_bars
from protoat.reports.records import accuracy, heads_of, interval_text, lowest, lowest_columns
from protoat.runs.records import Records

__all__ = ["attacks", "groups"]

_SHOWN = 40


def attacks(records: Records) -> Section:
    """Accuracy under each attack, with intervals, and everything that defines the attack."""
    blocks: list[Block] = list(_linear_heads(records))
    record = records.evaluation
    if record is None:
        blocks = blocks or [Text("Not measured: there is no evaluation.json.", "missing")]
        return Section("attacks", "Attacks", blocks)
    rows = [[name, *_cells(found)] for name, found in record.entries.items()]
    columns = ["attack", "accuracy %", "95 % interval", "right", "images", *lowest_columns(record.entries), "seconds"]
    blocks += [
        Chart(
            "Accuracy under attack",
            accuracy_bars({"accuracy": {name: found.count for name, found in record.entries.items()}}),
            "One bar for each attack with its 95 % interval; the table below has the same numbers.",
        ),
        Grid("Accuracy under attack, with Wilson's 95 % interval", columns, rows),
    ]
    if outside := [name for name in record.attacks if name not in record.entering]:
        blocks.append(Text(f"Not in the worst case, being outside this threat model: {', '.join(outside)}."))
    parameters = [[name, json.dumps(found.parameters)] for name, found in record.attacks.items()]
    blocks.append(Grid("Everything that defines the attacks", ["attack", "parameters"], parameters, 2, folded=True))
    return Section("attacks", "Attacks", blocks)


def _cells(found: AttackReport) -> list[str]:
    count = found.count
    return [
        f"{100 * count.accuracy:.1f}",
        interval_text(count),
        str(count.correct),
        str(count.total),
        *lowest(found),
        f"{found.seconds:.1f}",
    ]


def _linear_heads(records: Records) -> Iterator[Grid]:
    """What linear heads read off a pre-trained encoder and off a random one."""
    probe = records.run.probe if records.run is not None else None
    if probe is None:
        return
    columns, rows = heads_of(probe)
    yield Grid("Linear heads on the frozen encoder: accuracy % with its 95 % interval", columns, rows, text=2)


def groups(records: Records) -> Section:
    """Accuracy of each class and each mode, clean and in the worst case."""
    record = records.evaluation
    if record is None or record.worst_case is None:
        return Section("modes", "Classes and modes", [Text("Not measured: there is no worst case.", "missing")])
    shown = {name: found for name, found in record.entries.items() if name in ("clean", WORST_CASE)}
    blocks: list[Block] = list(_of_groups("class", {name: found.per_class for name, found in shown.items()}))
    if not record.worst_case.has_modes:
        blocks.append(Text("No modes are known beside the classes."))
    else:
        blocks += _of_groups("mode", {name: found.per_mode for name, found in shown.items()})
    return Section("modes", "Classes and modes", blocks)


def _of_groups(title: str, found: Mapping[str, Mapping[str, Count]]) -> Iterator[Block]:
    """A chart of the groups with the lowest worst case, and a table of all."""
    lowest = sorted(found[WORST_CASE], key=lambda name: found[WORST_CASE][name].accuracy)[:_SHOWN]
    series = {name: {group: counts[group] for group in lowest} for name, counts in found.items()}
    part = "" if len(lowest) == len(found[WORST_CASE]) else f" (the {_SHOWN} lowest of {len(found[WORST_CASE])})"
    yield Chart(
        f"Accuracy of each {title}{part}, lowest first",
        accuracy_bars(series),
        f"For each {title} its accuracy {' and '.join(series)}, with 95 % intervals; the table has the numbers.",
    )
    rows = [
        [name, *(accuracy(counts[name]) for counts in found.values()), str(count.total)]
        for name, count in found[WORST_CASE].items()
    ]
    columns = [title, *(f"{name} % [95 %]" for name in found), "images"]
    yield Grid(f"Accuracy of each {title}, with Wilson's 95 % interval", columns, rows, folded=len(rows) > 20)
