"""Heat maps: counts or shares of rows in columns."""

from __future__ import annotations

import math
from collections.abc import Sequence

from protoat.plots.plot import Plot
from protoat.plots.style import name_places

_MOST_NUMBERS = 400  # cells that have room for their numbers
_DARK, _LIGHT = "#101418", "#fcfcfc"  # on the colours of cells, which a dark page leaves as they are


def heat_map(
    plot: Plot,
    shares: Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
    axes: tuple[str, str],
    *,
    words: Sequence[Sequence[str]] | None = None,
    bar: str = "% of row",
) -> None:
    """Draws shares as colours.

    Args:
        plot: an empty one.
        shares: in %, a row each; not-a-number stays blank.
        rows, columns: their names.
        axes: what rows and columns are.
        words: what stands in the cells, where there is room.
        bar: what the colours say.
    """
    drawn = plot.subplots()
    image = drawn.imshow(shares, cmap="Blues", vmin=0, vmax=100, aspect="auto", interpolation="nearest")
    name_places(drawn, columns)
    drawn.set_yticks(range(len(rows)), rows)
    drawn.set(xlabel=axes[1], ylabel=axes[0])
    drawn.spines[:].set_visible(False)
    plot.colorbar(image, label=bar, fraction=0.04).outline.set_visible(False)
    if words is None or len(rows) * len(columns) > _MOST_NUMBERS:
        return
    for place, row in enumerate(words):
        for turn, text in enumerate(row):
            share = shares[place][turn]
            light = not math.isnan(share) and share > 55
            drawn.text(turn, place, text, ha="center", va="center", size=7, color=_LIGHT if light else _DARK)
