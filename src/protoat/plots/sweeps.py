"""Accuracy against the radius of an attack, its steps, or the number of prototypes: read from records."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from protoat.errors import UserError
from protoat.evaluation import Count
from protoat.evaluation.record import Evaluation
from protoat.evaluation.report import innermost
from protoat.plots.plot import Plot, styled
from protoat.plots.records import measured
from protoat.plots.style import accuracy_axis, chosen, colour, dash, error_bars, label, labels, legend, marker
from protoat.runs.claims import called

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Measured(NamedTuple):
    """Where a line passes: what was varied, what was measured there, and how many images stayed right."""

    x: float
    attack: str
    right: Count


@styled
def accuracy_against_eps(runs: Sequence[Path | str], *, records: Mapping[Path, Evaluation] | None = None) -> Plot:
    """Accuracy against the radius, a line for each attack that is recorded at several, such as pgd10 and pgd10@0.1.

    Attacks belong to one line when all else is equal; step sizes count in units of ``eps / steps``. The clean
    accuracy is the point at 0.

    Args:
        runs: folders with an ``evaluation.json``; weights are not needed.
        records: evaluations of these folders that are drawn in place of that.

    Raises:
        ValueError: a folder without record, or with one of earlier weights; or one in which no attack has two radii.
    """
    return _sweep(runs, records, "eps", "radius eps", "pgd10 pgd10@RADIUS", through_clean=True)


@styled
def accuracy_against_steps(runs: Sequence[Path | str], *, records: Mapping[Path, Evaluation] | None = None) -> Plot:
    """Accuracy against the number of steps, a line for each attack that is recorded with several, as pgd10 and pgd50.

    See `accuracy_against_eps`.
    """
    return _sweep(runs, records, "steps", "steps", "pgd10 pgd50 pgd100", through_clean=False)


def _sweep(
    runs: Sequence[Path | str],
    records: Mapping[Path, Evaluation] | None,
    key: str,
    axis: str,
    example: str,
    *,
    through_clean: bool,
) -> Plot:
    folders = chosen(runs)
    lines, about = [], []
    for place, (folder, name) in enumerate(zip(folders, labels(folders), strict=True)):
        record = measured(folder, records)
        found = _lines(record, key)
        if not found:
            raise UserError(
                f"{called(folder)} holds no attack with several values of {key}; measure them: "
                f"protoat evaluate {called(folder)} --attacks clean {example}"
            )
        clean = record.attacks.get("clean")
        for turn, points in enumerate(found):
            if through_clean and clean is not None:
                points.insert(0, Measured(0.0, "clean", clean.count))
            lines.append((f"{name}: {label(_family(points[-1].attack, key))}", points, place, turn))
        about.append(f"{name}: {record.subject.images} test images of {label(record.subject.data)}")
    plot = Plot(f"Accuracy against {axis}", [*about, "bars: 95 % intervals over images"])
    axes = plot.subplots()
    for line in lines:
        draw_line(axes, *line)
    axes.set(xlabel=axis, xlim=(0, None))
    accuracy_axis(axes)
    legend(axes)
    return plot


def draw_line(axes: Axes, name: str, points: Sequence[Measured], place: int, turn: int = 0) -> None:
    """Draws accuracies with their intervals as a line.

    Args:
        axes: where.
        name: of the line.
        points: in the order of their x.
        place: of the run, which chooses the colour.
        turn: of the line in its run, which chooses how it is drawn.
    """
    counts = [point.right for point in points]
    axes.errorbar(
        [point.x for point in points],
        [100 * count.accuracy for count in counts],
        yerr=error_bars(counts),
        label=name,
        color=colour(place),
        linestyle=dash(turn),
        marker=marker(turn),
        markersize=4,
        elinewidth=0.8,
        capsize=2,
    )


def _lines(record: Evaluation, key: str) -> list[list[Measured]]:
    """Points of attacks that differ in `key` only, by `key`; those of which there are at least two."""
    found: dict[str, dict[float, Measured]] = defaultdict(dict)
    for name, entry in record.attacks.items():
        value = innermost(entry.parameters).get(key)
        if isinstance(value, int | float):
            point = Measured(float(value), name, entry.count)
            found[json.dumps(_but_for(key, entry.parameters), sort_keys=True)].setdefault(point.x, point)
    return [[points[x] for x in sorted(points)] for points in found.values() if len(points) > 1]


def _family(attack: str, key: str) -> str:
    """The name of an attack without what is varied: ``pgd10@0.1`` is pgd10 at any radius, pgdN with any steps."""
    return attack.partition("@")[0] if key == "eps" else re.sub(r"\d+", "N", attack, count=1)


def _but_for(key: str, value: Any) -> Any:
    """Parameters without `key`, and with step sizes in units of ``eps / steps``, to three digits."""
    if isinstance(value, Mapping):
        kept = {name: _but_for(key, entry) for name, entry in value.items() if name not in (key, "step_size")}
        if value.get("eps") and all(isinstance(value.get(name), int | float) for name in ("steps", "step_size", "eps")):
            kept["reach"] = f"{value['steps'] * value['step_size'] / value['eps']:.3g}"
        return kept
    return [_but_for(key, entry) for entry in value] if isinstance(value, list) else value
