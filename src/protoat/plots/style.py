"""The style of all plots: colours, run names, error bars."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protoat.errors import UserError
from protoat.evaluation import Count
from protoat.evaluation.statistics import percentage

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = [
    "COLOURS",
    "SYMBOLS",
    "accuracy_axis",
    "chosen",
    "colour",
    "dash",
    "error_bars",
    "heading",
    "label",
    "names",
    "shown",
]

# Okabe and Ito's, which colour-blind readers tell apart, and darker ones of the same hues; yellow is left out. At least
# 2:1 against white and 3:1 against the dark page.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56a0d3", "#b8860b", "#7a5195", "#8c564b", "#5f9e3a", "#7f7f7f")
SYMBOLS = ("circle", "square", "diamond", "cross", "x", "pentagon", "star", "hexagram", "hourglass", "bowtie")
_DASHES = ("solid", "dash", "dot", "dashdot")


def colour(place: int) -> str:
    """The colour of a series, again from the first one after the last."""
    return COLOURS[place % len(COLOURS)]


def dash(place: int) -> str:
    """How the line of a series is drawn, so that colour is not the only sign."""
    return _DASHES[place % len(_DASHES)]


def label(name: str, *, longest: int = 40) -> str:
    """A name from outside as plotly shows it: plotly reads some HTML in its texts, so it is escaped; cut if long.

    >>> label("<b>cats</b>")
    '&lt;b&gt;cats&lt;/b&gt;'
    """
    cut = name if len(name) <= longest else name[: longest - 1].rstrip() + "…"
    return html.escape(cut, quote=False)  # plotly knows no &quot;


def chosen(runs: Sequence[Path | str]) -> list[Path]:
    """The folders that a figure is drawn from.

    Raises:
        ValueError: none, or one twice.

    >>> chosen(["runs/a", "runs/b"])
    [PosixPath('runs/a'), PosixPath('runs/b')]
    """
    folders = [Path(run) for run in runs]
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


def heading(title: str, *about: str) -> dict[str, Any]:
    """A title with smaller lines below it and the room they need, for ``update_layout``; all are escaped already.

    >>> heading("Title", "a line", "")["title"]["text"]
    'Title<br><sub>a line</sub>'
    """
    lines = [f"<br><sub>{line}</sub>" for line in about if line]
    place = {"yref": "container", "y": 1, "yanchor": "top", "pad": {"t": 24}}
    return {"title": {"text": "".join([title, *lines]), **place}, "margin": {"t": 80 + 22 * len(lines)}}


def shown(count: Count) -> str:
    """An accuracy with its interval and the counts, in words.

    >>> shown(Count(621, 1000))
    '62.1 % [59.1, 65.1], 621 of 1000'
    """
    return f"{percentage(count.accuracy, count.interval, beside=' %')}, {count.correct} of {count.total}"


def error_bars(counts: Sequence[Count]) -> dict[str, Any]:
    """Wilson's 95 % intervals around accuracies in %, as plotly wants them."""
    return {
        "type": "data",
        "array": [max(0.0, 100 * (count.interval[1] - count.accuracy)) for count in counts],
        "arrayminus": [max(0.0, 100 * (count.accuracy - count.interval[0])) for count in counts],
        "width": 3,
        "thickness": 1,
    }


def accuracy_axis(figure: Figure, **place: int) -> None:
    """A y-axis from 0 to 100 %."""
    figure.update_yaxes(title_text="accuracy %", range=[0, 101], **place)
