"""Reads figures back: what matplotlib drew, by the names of the legend, and rows of pictures on a page."""

from __future__ import annotations

import re

from matplotlib.container import BarContainer, ErrorbarContainer

from protoat.plots.pictures import Pictures
from protoat.plots.plot import Plot
from protoat.reports.blocks import Gallery, Section
from protoat.reports.page import Chapter, render


def lines(plot: Plot) -> dict[str, tuple[list[float], list[float]]]:
    """x and y of each line."""
    found = {}
    for axes in plot.axes:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            line = handle.lines[0] if isinstance(handle, ErrorbarContainer) else handle
            found[name] = (list(line.get_xdata()), list(line.get_ydata()))
    return found


def intervals(plot: Plot) -> dict[str, list[tuple[float, float]]]:
    """Ends of the error bars of each line."""
    (axes,) = plot.axes
    return {
        bars.get_label(): [(low[1], high[1]) for low, high in bars.lines[2][0].get_segments()]
        for bars in axes.containers
        if isinstance(bars, ErrorbarContainer)
    }


def bars(plot: Plot) -> dict[str, list[float]]:
    """Heights of the bars of each series, by tick; 0 where a series has none."""
    (axes,) = plot.axes
    found = {}
    for series in axes.containers:
        if isinstance(series, BarContainer):
            heights = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in series}
            assert len(heights) == len(series)
            found[series.get_label()] = [heights.get(place, 0.0) for place in range(len(ticks(plot, "x")))]
    return found


def ticks(plot: Plot, axis: str) -> list[str]:
    """Names of places on an axis."""
    axes = plot.axes[0]
    return [text.get_text() for text in getattr(axes, f"get_{axis}ticklabels")()]


def numbers(plot: Plot) -> list[list[int]]:
    """What stands in the cells of a heat map."""
    axes = plot.axes[0]
    width = len(ticks(plot, "x"))
    cells = [int(text.get_text()) for text in axes.texts]
    return [cells[start : start + width] for start in range(0, len(cells), width)]


def words(plot: Plot) -> list[str]:
    """Every text of the figure, as a page shows it."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", plot.svg("figure"))


def on_page(pictures: Pictures) -> str:
    """The rows as a page shows them."""
    page = render("", [Chapter("a", "", [Section("b", "", [Gallery(pictures)])])], [])
    return page.partition('<div class="gallery"')[2].partition("</main>")[0]
