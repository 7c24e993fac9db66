"""Accuracy of each mode, without an attack and in the worst case, the weakest first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from protoat.errors import UserError
from protoat.evaluation import AttackReport
from protoat.evaluation.record import Evaluation
from protoat.evaluation.statistics import weakest_first
from protoat.plots.plot import Plot, styled
from protoat.plots.records import measured
from protoat.plots.style import (
    TEXT,
    accuracy_axis,
    bar,
    chosen,
    error_bars,
    label,
    labels,
    legend,
    name_places,
)
from protoat.runs.claims import called
from protoat.runs.run import Run

_MOST = 40


@styled
def accuracy_of_modes(
    runs: Sequence[Path | str] | Run | Path | str, *, records: Mapping[Path, Evaluation] | None = None
) -> Plot:
    """For each mode the share of its images that stay right in the worst case, and without an attack, with intervals.

    Bars are the worst case, one for each run; a black line over a bar is the same mode without an attack. Modes are in
    the order of the first run, the weakest first; classes stand for modes where none are known.

    Args:
        runs: one or several, measured on the same images by ``protoat evaluate``; weights are not needed.
        records: evaluations of these folders that are drawn in place of their ``evaluation.json``.

    Raises:
        ValueError: a run without a worst case, or with a record of earlier weights; runs with different modes.
    """
    folders = chosen([runs.path if isinstance(runs, Run) else runs] if isinstance(runs, Run | Path | str) else runs)
    cases = [_worst_case(folder, records) for folder in folders]
    kind, kinds = ("mode", "modes") if cases[0][0].has_modes else ("class", "classes")
    found = [(worst.per_mode, {} if clean is None else clean.per_mode) for worst, clean in cases]
    worst, _ = found[0]
    if any(own.keys() != worst.keys() for own, _ in found):
        raise UserError(f"the runs were measured on different {kinds}; measure them on the same images")
    order = weakest_first(worst)[:_MOST]
    about = [f"the {_MOST} weakest of {len(worst)} {kinds}"] if len(order) < len(worst) else []
    plot = Plot(
        f"Accuracy of each {kind}", [*about, "bars: 95 % intervals"], size=(max(5.0, 1 + 0.4 * len(order)), 3.2)
    )
    axes, width = plot.subplots(), 0.8 / len(found)
    for place, (name, (own, clean)) in enumerate(zip(labels(folders), found, strict=True)):
        places = [x + (place - (len(found) - 1) / 2) * width for x in range(len(order))]
        counts = [own[mode] for mode in order]
        words = "worst case" if len(found) == 1 else f"{name}, worst case"
        axes.bar(places, [100 * count.accuracy for count in counts], 0.9 * width, label=words, **bar(place, place))
        bars: dict[str, Any] = {"fmt": "none", "ecolor": TEXT, "elinewidth": 0.8, "capsize": 2}
        axes.errorbar(places, [100 * count.accuracy for count in counts], yerr=error_bars(counts), **bars)
        if clean:
            ends = [(x - 0.45 * width, x + 0.45 * width) for x in places]
            heights = [100 * clean[mode].accuracy for mode in order]
            axes.hlines(heights, *zip(*ends, strict=True), color=TEXT, label="_" * bool(place) + "clean")
    name_places(axes, [label(mode, longest=22) for mode in order])
    axes.set(xlabel=f"{kind}, the weakest first")
    accuracy_axis(axes)
    legend(axes)
    return plot


def _worst_case(folder: Path, records: Mapping[Path, Evaluation] | None) -> tuple[AttackReport, AttackReport | None]:
    """Worst-case accuracy, and clean accuracy where it was measured."""
    record = measured(folder, records)
    if record.worst_case is None:
        raise UserError(f"{called(folder)} has no worst case; measure it: protoat evaluate {called(folder)}")
    return record.worst_case, record.attacks.get("clean")
