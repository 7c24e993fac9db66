"""The style of all plots: colours, run names, error bars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protoat.errors import UserError
from protoat.evaluation import Count
from protoat.evaluation.statistics import percentage
from protoat.names import printable
from protoat.runs.claims import find_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TEXT, SOFT, GRID, BACK = "#1b222c", "#56616f", "#dfe4ea", "#ffffff"
# Okabe and Ito's, which colour-blind readers tell apart, and others of the same hues; yellow is left out. At least 3:1
# against white; a dark page has its own, at least 3:1 against that.
COLOURS = ("#0072b2", "#d55e00", "#008f68", "#b8528c", "#3a8dc4", "#96700a", "#7a5195", "#8c564b", "#4f8a30", "#6f7780")
HATCHES = ("", "////", "\\\\\\\\", "xxxx", "----", "||||", "++++", "....")
_MARKERS = ("o", "s", "D", "P", "X", "p", "*", "h", "v", "^")
_DASHES = ("-", "--", ":", "-.")


def colour(place: int) -> str:
    """The colour of a series, again from the first one after the last."""
    return COLOURS[place % len(COLOURS)]


def dash(place: int) -> str:
    """How the line of a series is drawn, so that colour is not the only sign."""
    return _DASHES[place % len(_DASHES)]


def marker(place: int) -> str:
    """The sign at the points of a series."""
    return _MARKERS[place % len(_MARKERS)]


def bar(place: int, hatch: int) -> dict[str, Any]:
    """How the bars of a series are drawn: by colour and hatch."""
    return {"color": colour(place), "hatch": HATCHES[hatch % len(HATCHES)], "edgecolor": BACK, "linewidth": 0}


def label(name: str, *, longest: int = 40) -> str:
    """A name from outside as a plot shows it: what cannot be seen is spelled out, and a long one lacks its middle.

    Names of one family mostly differ at their ends: ``mnist-pgd-0-1a2b``, ``mnist-pgd-1-3c4d``.

    >>> label("cats\\x1b[2J"), label("german shepherd", longest=8)
    ('cats\\\\x1b[2J', 'germ…erd')
    """
    text = printable(name)
    if len(text) <= longest:
        return text
    end = (longest - 1) // 2
    return f"{text[: longest - 1 - end].rstrip()}…{text[len(text) - end :].lstrip()}"


def labels(runs: Sequence[Path]) -> list[str]:
    """Labels of runs, no two of which are alike: names that look the same once cut get their place.

    >>> labels([Path("a"), Path("b" * 50 + "1" + "b" * 50), Path("b" * 50 + "2" + "b" * 50)])
    ['a', 'bbbbbbbbbbbbbbbbbbbb…bbbbbbbbbbbbbbbbbbb (2)', 'bbbbbbbbbbbbbbbbbbbb…bbbbbbbbbbbbbbbbbbb (3)']
    """
    cut = [label(name) for name in names(runs)]
    return [text if cut.count(text) == 1 else f"{text} ({place})" for place, text in enumerate(cut, 1)]


def chosen(runs: Sequence[Path | str]) -> list[Path]:
    """The folders that a figure is drawn from.

    Raises:
        ValueError: none, or one twice.

    >>> chosen(["runs/a", "runs/b"])
    [PosixPath('runs/a'), PosixPath('runs/b')]
    """
    folders = [find_run(run) for run in runs]
    if not folders or len(set(folders)) < len(folders):
        raise UserError("name at least one run folder to draw from, and none of them twice")
    return folders


def names(runs: Sequence[Path]) -> list[str]:
    """Names of folders, as short as keeps them apart; not escaped.

    >>> names([Path("a/x/1"), Path("b/x/1"), Path("c/y")])
    ['a/x/1', 'b/x/1', 'y']
    """
    parts = [Path(run).resolve().parts if Path(run).name in ("", "..") else Path(run).parts for run in runs]
    found = []
    for own in parts:
        others = [other for other in parts if other is not own]
        length = next((n for n in range(1, len(own)) if all(other[-n:] != own[-n:] for other in others)), len(own))
        found.append("/".join(own[-length:]))
    return found


def shown(count: Count) -> str:
    """An accuracy with its interval and the counts, in words.

    >>> shown(Count(621, 1000))
    '62.1 % [59.1, 65.1], 621 of 1000'
    """
    return f"{percentage(count.accuracy, count.interval, beside=' %')}, {count.correct} of {count.total}"


def error_bars(counts: Sequence[Count]) -> tuple[list[float], list[float]]:
    """How far Wilson's 95 % intervals reach below and above accuracies, in %, as matplotlib wants them."""
    below = [max(0.0, 100 * (count.accuracy - count.interval[0])) for count in counts]
    above = [max(0.0, 100 * (count.interval[1] - count.accuracy)) for count in counts]
    return below, above


def accuracy_axis(axes: Axes) -> None:
    """A y-axis from 0 to 100 %."""
    axes.set(ylabel="accuracy, %", ylim=(0, 101))
    axes.grid(axis="y")


def name_places(axes: Axes, names: Sequence[str]) -> None:
    """Names the places 0, 1, ... of the x-axis; long names are turned."""
    axes.set_xticks(range(len(names)), list(names))
    if max(map(len, names), default=0) > 3:
        axes.tick_params(axis="x", labelrotation=60)
        for text in axes.get_xticklabels():
            text.set(horizontalalignment="right", rotation_mode="anchor")


def legend(axes: Axes) -> None:
    """Says above the axes which series is which, in as many columns as their names leave room for."""
    longest = max(map(len, axes.get_legend_handles_labels()[1]), default=1)
    columns = max(1, min(4, 60 // (longest + 8)))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.2)
