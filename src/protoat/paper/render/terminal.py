"""Tables on a terminal."""

from __future__ import annotations

import io

from rich.console import Console
from rich.table import Table
from rich.text import Text

from protoat.names import printable
from protoat.paper.render.document import ABOUT_NOTES, Document, Sheet

_WIDTH = 160


def to_terminal(document: Document) -> str:
    """What `show` prints, without colours.

    >>> sheet = Sheet("MNIST", ["row", "Clean"], [["Ours", "98.0"]], frozenset({(0, 1)}))
    >>> "98.0 *" in to_terminal(Document(1, "A", "Budget smoke.", [sheet], [], [], []))
    True
    """
    out = io.StringIO()
    show(document, Console(file=out, width=_WIDTH))
    return out.getvalue()


def show(document: Document, console: Console | None = None) -> None:
    """Prints a table with everything that is said below it; by default on standard output."""
    console = console or Console()
    if not console.is_terminal:
        console.width = _WIDTH
    console.print(_text(f"Table {document.number}. {document.title}", style="bold"))
    console.print(_text(document.budget))
    for sheet in document.sheets:
        console.print(_sheet(sheet))
    for line in document.remarks:
        console.print(_text(line))
    if document.notes:
        console.print(_text(ABOUT_NOTES, style="bold"))
    for line in document.notes:
        console.print(_text(f"- {line}"))
    if document.missing:
        console.print(_text("Not measured (—), and the commands that do it:", style="bold"))
    for _, command in document.missing:
        console.print(_text(command), soft_wrap=True)  # to be copied in one piece


def _text(text: str, style: str = "") -> Text:
    return Text(printable(text), style=style)


def _sheet(sheet: Sheet) -> Table:
    table = Table(title=_text(sheet.title) if sheet.title else None, title_justify="left")
    for place, heading in enumerate(sheet.header):
        table.add_column(_text(heading), justify="right" if place else "left", overflow="fold")
    for cells in sheet.marked(_text, lambda cell: _text(f"{cell} *", style="bold")):
        table.add_row(*cells)
    return table
