"""What attacks leave: of all images, of each class and mode, of linear heads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from protoat.evaluation.compare import WORST_CASE
from protoat.evaluation.statistics import Count, count_of
from protoat.reports.blocks import Block, Chart, Grid, Section, Text
from protoat.reports.charts import accuracy_bars
from protoat.reports.records import accuracy, entries_of, groups_of, heads_of, interval_text, lowest
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
    found = entries_of(record)
    rows = [[name, *_cells(entry)] for name, entry in found.items()]
    columns = ["attack", "accuracy %", "95 % interval", "right", "images", "worst class", "worst mode", "seconds"]
    blocks += [
        Chart(
            "Accuracy under attack",
            accuracy_bars({"accuracy": {name: count_of(entry) for name, entry in found.items()}}),
            "One bar for each attack with its 95 % interval; the table below has the same numbers.",
        ),
        Grid("Accuracy under attack, with Wilson's 95 % interval", columns, rows),
    ]
    case = record.get("worst_case")
    outside = [name for name in record["attacks"] if case and name not in case["parameters"]["attacks"]]
    if outside:
        blocks.append(Text(f"Not in the worst case, being outside this threat model: {', '.join(outside)}."))
    parameters = [[name, json.dumps(entry["parameters"])] for name, entry in record["attacks"].items()]
    blocks.append(Grid("Everything that defines the attacks", ["attack", "parameters"], parameters, 2, folded=True))
    return Section("attacks", "Attacks", blocks)


def _cells(entry: Mapping[str, Any]) -> list[str]:
    count = count_of(entry)
    return [
        f"{100 * count.accuracy:.1f}",
        interval_text(count),
        str(count.correct),
        str(count.total),
        *lowest(entry),
        f"{entry['seconds']:.1f}",
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
    if record is None or not record.get("worst_case"):
        return Section("modes", "Classes and modes", [Text("Not measured: there is no worst case.", "missing")])
    blocks: list[Block] = []
    for kind, title in (("per_class", "class"), ("per_mode", "mode")):
        found = {name: groups_of(record["attacks"][name], kind) for name in ("clean",) if name in record["attacks"]}
        found[WORST_CASE] = groups_of(record["worst_case"], kind)
        if kind == "per_mode" and found[WORST_CASE] == groups_of(record["worst_case"], "per_class"):
            blocks.append(Text("No modes are known beside the classes."))
            continue
        blocks += _of_groups(title, found)
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
