"""A figure with its description, and its rendering to a file or a part of a page."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, NamedTuple, ParamSpec
from xml.etree import ElementTree

from matplotlib import rc_context
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

from protoat.errors import UserError
from protoat.plots.style import BACK, COLOURS, GRID, SOFT, TEXT

# Text is text in every file, so it can be searched and edited; names from outside are no formulas.
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "pdf.fonttype": 42,
    "savefig.dpi": 200,
    "svg.fonttype": "none",
    "svg.hashsalt": "protoat",
    "text.color": TEXT,
    "text.parse_math": False,
    "text.usetex": False,
    "xtick.color": SOFT,
    "xtick.labelcolor": TEXT,
    "ytick.color": SOFT,
    "ytick.labelcolor": TEXT,
}
# Colours that a page sets, so that it can change them in the dark.
_OF_PAGE = {TEXT: "text", SOFT: "soft", GRID: "grid", BACK: "back"} | {
    colour: f"series-{place}" for place, colour in enumerate(COLOURS)
}
# What a page has no use for: it names its own font, and a hundredth of a point is not seen.
_FAMILY = re.compile(r"font-family: [^;]*;? ?")
_FINER = re.compile(r"(\d\.\d\d)\d+")
Arguments = ParamSpec("Arguments")


class Point(NamedTuple):
    """What a point of a map stands for: its image as a ``data:`` address, and words."""

    image: str
    words: str


class Plot(Figure):
    """A matplotlib figure; ``savefig`` writes it clean, for a paper: what is said about it stays outside.

    Args:
        title: what it shows.
        about: of which images, under which attack, and figures in words.
        size: width and height in inches.

    Attributes:
        points: of each marker in the collections whose ``gid`` begins with ``points``, in the order drawn.

    >>> plot = Plot("Accuracy", ["10 images"])
    >>> plot.subplots().plot([1, 2])[0].get_ydata().tolist()
    [1, 2]
    >>> plot.svg("here").startswith("<svg")
    True
    """

    def __init__(self, title: str, about: Sequence[str] = (), *, size: tuple[float, float] = (5, 3.2)) -> None:
        super().__init__(figsize=size, layout="constrained")
        self.title, self.about = title, [line for line in about if line]
        self.points: list[Point] = []

    def __repr__(self) -> str:
        return f"Plot({self.title!r})"

    def _repr_png_(self) -> bytes:
        return as_file([self], ".png")

    def draw(self, renderer: Any) -> None:
        """Draws it in our style: matplotlib makes the texts at ticks only now.

        The first drawing lays it out for all; each layout moves axes by a last bit, and files would differ.
        """
        with rc_context(_STYLE), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # the reader's font may have it
            super().draw(renderer)
        self.set_layout_engine("none")

    def svg(self, name: str) -> str:
        """The figure as an ``<svg>`` for a page, in the page's font and colours.

        Args:
            name: begins every id in it, so that two figures of a page do not share one.
        """
        buffer = io.StringIO()
        with rc_context(_STYLE):
            self.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
        root = ElementTree.fromstring(buffer.getvalue())
        for parent in list(root.iter()):
            for child in [each for each in parent if _local(each.tag) in ("metadata", "style")]:
                parent.remove(child)
        for element in root.iter():
            element.tag = _local(element.tag)
            element.attrib = {_local(key): _on_page(key, value, name) for key, value in element.attrib.items()}
        for group in root.iter("g"):
            _say_once(group)
        for element in root.iter():
            element.text, element.tail = (text and text.strip() for text in (element.text, element.tail))
        width = self.get_size_inches()[0] * 72
        root.attrib = {"viewBox": root.attrib["viewBox"], "aria-hidden": "true", "style": f"--width:{width:.0f}px"}
        return ElementTree.tostring(root, encoding="unicode")


def styled(draw: Callable[Arguments, Plot]) -> Callable[Arguments, Plot]:
    """Draws in our style, whatever the style of the program is."""

    @wraps(draw)
    def drawn(*args: Arguments.args, **options: Arguments.kwargs) -> Plot:
        with rc_context(_STYLE):
            return draw(*args, **options)

    return drawn


def as_file(plots: Sequence[Plot], kind: str) -> bytes:
    """Figures as one file, each a page of a PDF.

    Args:
        plots: at least one.
        kind: ``.pdf``, ``.svg`` or ``.png``.

    Raises:
        ValueError: several, and no PDF.
    """
    if len(plots) > 1 and kind != ".pdf":
        raise UserError(f"{kind} holds one figure, and there are {len(plots)}; write .pdf or .html, or name one run")
    buffer = io.BytesIO()
    with rc_context(_STYLE):
        if kind == ".pdf":
            with PdfPages(buffer, metadata={"CreationDate": None}) as pages:
                for plot in plots:
                    pages.savefig(plot, bbox_inches="tight")
        else:
            metadata = {"Date": None} if kind == ".svg" else None
            plots[0].savefig(buffer, format=kind[1:], bbox_inches="tight", metadata=metadata)
    return buffer.getvalue()


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _say_once(group: ElementTree.Element) -> None:
    """Gives markers that are drawn alike their style through their group, which halves a map."""
    styles = {child.get("style") for child in group}
    if {child.tag for child in group} == {"use"} and len(styles) == 1 and (style := styles.pop()):
        group.set("style", style)
        for child in group:
            del child.attrib["style"]


def _on_page(key: str, value: str, name: str) -> str:
    """The value of an SVG attribute, with the page's colours and with ids that are unique on the page."""
    key = _local(key)
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return value.replace("#", f"#{name}-", 1) if value.startswith("#") else value
    if key in ("clip-path", "style", "fill", "stroke"):
        value = value.replace("url(#", f"url(#{name}-")
        for colour, variable in _OF_PAGE.items():
            value = value.replace(colour, f"var(--{variable})")
    return _FINER.sub(r"\1", _FAMILY.sub("", value))
