"""The building blocks of a report, before they are HTML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from protoat.evaluation import Count

if TYPE_CHECKING:
    from protoat.plots.pictures import Pictures
    from protoat.plots.plot import Plot


class Text(NamedTuple):
    """A paragraph; ``"missing"`` and ``"warning"`` are marked as such, in words too; ``"lead"`` matters most."""

    text: str
    kind: Literal["plain", "lead", "missing", "warning"] = "plain"


class Cards(NamedTuple):
    """A few decisive accuracies: what each is of, the accuracy, and what must be known to read it."""

    cards: Sequence[tuple[str, Count, str]]


class Grid(NamedTuple):
    """A table with a caption; the first column names the row, and a `Count` is an accuracy with its interval and a bar.

    Attributes:
        text: columns at the beginning that are words; the others are numbers, flush right.
        folded: shown when it is asked for.
        status: column of ``pass``, ``fail`` or the like, which gets a mark.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Count]]
    text: int = 1
    folded: bool = False
    status: int | None = None


class Chart(NamedTuple):
    """A figure; its points, where it has some, are shown one at a time.

    Attributes:
        plot: the figure.
        about: what it shows, for those who do not see it, and where the same numbers are in text.
    """

    plot: Plot
    about: str


class Gallery(NamedTuple):
    """Rows of images."""

    pictures: Pictures


class Code(NamedTuple):
    """Text to be copied: commands, a recipe."""

    title: str
    text: str


Block = Text | Cards | Grid | Chart | Gallery | Code


class Section(NamedTuple):
    """A titled part of a page; `name` becomes a part of its address."""

    name: str
    title: str
    blocks: Sequence[Block]
