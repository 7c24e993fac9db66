"""The building blocks of a report, before they are HTML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["Block", "Cards", "Chart", "Code", "Fragment", "Grid", "Section", "Text"]


class Text(NamedTuple):
    """A paragraph; ``"missing"`` and ``"warning"`` are marked as such, in words too."""

    text: str
    kind: Literal["plain", "missing", "warning"] = "plain"


class Cards(NamedTuple):
    """A few decisive figures: what each is, its value, and what must be known to read it."""

    items: Sequence[tuple[str, str, str]]


class Grid(NamedTuple):
    """A table with a caption; the first column names the row.

    Attributes:
        text: columns at the beginning that are words; the others are numbers, flush right.
        folded: shown when it is asked for.
        status: column of ``pass``, ``fail`` or the like, which gets a mark.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: int = 1
    folded: bool = False
    status: int | None = None


class Chart(NamedTuple):
    """A plotly figure.

    Attributes:
        title: stands above it, whatever title the figure itself has.
        about: what it shows, for those who do not see it, and where the same numbers are in text.
        images: whether points carry an image (``data:`` URI in ``customdata``), to be shown one at a time.
    """

    title: str
    figure: Figure
    about: str
    images: bool = False


class Fragment(NamedTuple):
    """HTML of one of our own figures, in which outside text is escaped already."""

    title: str
    html: str


class Code(NamedTuple):
    """Text to be copied: commands, a recipe."""

    title: str
    text: str


Block = Text | Cards | Grid | Chart | Fragment | Code


class Section(NamedTuple):
    """A titled part of a page; `name` becomes a part of its address."""

    name: str
    title: str
    blocks: Sequence[Block]
