"""Tables in Markdown."""

from __future__ import annotations

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
        if lines:
            blocks += [*filter(None, [heading]), "\n".join(f"* {markdown_text(line)}" for line in lines)]
    if document.missing:
        commands = "\n".join(f"# {printable(name)}\n{printable(command)}" for name, command in document.missing)
        blocks.append(f"Not measured (—); these commands do it:\n\n```console\n{commands}\n```")
    return "\n\n".join(blocks) + "\n"


def _sheet(sheet: Sheet) -> str:
    rule = ["---", *["---:"] * (len(sheet.header) - 1)]
    rows = sheet.marked(markdown_text, lambda cell: f"**{markdown_text(cell)}**")
    lines = [f"| {' | '.join(cells)} |" for cells in ([markdown_text(cell) for cell in sheet.header], rule, *rows)]
    return "\n".join([*([markdown_text(sheet.title), ""] if sheet.title else []), *lines])
