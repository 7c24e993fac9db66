"""Bar charts of what an evaluation found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from protoat.evaluation import Count
from protoat.plots.style import colour, error_bars, label, shown

if TYPE_CHECKING:
    from plotly.graph_objects import Bar, Figure

__all__ = ["accuracy_bars"]

# A pattern tells series apart without colours.
_PATTERNS = ("", "/", ".", "x")
_ROW, _MARGIN = 22, 110


def accuracy_bars(series: Mapping[str, Mapping[str, Count]]) -> Figure:
    """A bar with its 95 % interval for each name of each series, names from top to bottom.

    Args:
        series: by what is said of it; every one has the same names.

    >>> from protoat.evaluation import Count
    >>> figure = accuracy_bars({"clean": {"cat": Count(3, 4), "dog": Count(1, 4)}})
    >>> figure.data[0].x
    (75.0, 25.0)
    """
    from plotly import graph_objects as go

    names = list(next(iter(series.values())))
    bars = [_bars(name, counts, place) for place, (name, counts) in enumerate(series.items())]
    figure = go.Figure(bars)
    figure.update_layout(
        barmode="group",
        height=_MARGIN + _ROW * (1 + len(series)) * len(names) * 2 // 3,
        showlegend=len(series) > 1,
        xaxis={"range": [0, 100], "title": "accuracy %"},
        yaxis={
            "autorange": "reversed",
            "tickvals": list(range(len(names))),
            "ticktext": [label(name, longest=22) for name in names],
            "automargin": True,
        },
    )
    return figure


def _bars(series: str, counts: Mapping[str, Count], place: int) -> Bar:
    from plotly import graph_objects as go

    found = list(counts.values())
    return go.Bar(
        name=label(series),
        orientation="h",
        x=[100 * count.accuracy for count in found],
        y=list(range(len(found))),
        hovertext=[f"{label(name)}, {label(series)}: {shown(count)}" for name, count in counts.items()],
        hoverinfo="text",
        marker={
            "color": colour(place),
            "pattern": {"shape": _PATTERNS[place % len(_PATTERNS)], "fillmode": "overlay", "size": 6},
        },
        error_x=error_bars(found),
    )
