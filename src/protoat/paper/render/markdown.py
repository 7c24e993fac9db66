"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from protoat.names import markdown_text, printable
from protoat.paper.render.document import ABOUT_NOTES, Document, Sheet


def to_markdown(document: Document) -> str:
    """A table with everything that is said below it.

    >>> sheet = Sheet("", ["row", "Clean"], [["a|b", "98.0"]], frozenset({(0, 1)}))
    >>> print(to_markdown(Document(1, "A.", "Budget smoke.", [sheet], [], [], [])))
    **Table 1. A.**
    <BLANKLINE>
    Budget smoke.
    <BLANKLINE>
    | row | Clean |
    | --- | ---: |
    | a\\|b | **98.0** |
    <BLANKLINE>
    """
    blocks = [
        f"**Table {document.number}. {markdown_text(document.title)}**",
        markdown_text(document.budget),
        *map(_sheet, document.sheets),
    ]
    for heading, lines in (("", document.remarks), (ABOUT_NOTES, document.notes)):
        blocks += [*([heading] if heading else []), _bullets(map(markdown_text, lines))] if lines else []
    if document.missing:
        commands = "\n".join(f"# {printable(name)}\n{printable(command)}" for name, command in document.missing)
        blocks.append(f"Not measured (—); these commands do it:\n\n```console\n{commands}\n```")
    return "\n\n".join(blocks) + "\n"


def _sheet(sheet: Sheet) -> str:
    rule = ["---", *["---:"] * (len(sheet.header) - 1)]
    rows = [
        [
            f"**{markdown_text(cell)}**" if (place, column) in sheet.best else markdown_text(cell)
            for column, cell in enumerate(row)
        ]
        for place, row in enumerate(sheet.rows)
    ]
    lines = [f"| {' | '.join(cells)} |" for cells in ([markdown_text(cell) for cell in sheet.header], rule, *rows)]
    return "\n".join([*([markdown_text(sheet.title), ""] if sheet.title else []), *lines])


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"* {line}" for line in lines)
