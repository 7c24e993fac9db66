"""Tables in LaTeX, with the package booktabs."""

from __future__ import annotations

from protoat.names import printable
from protoat.paper.render.document import ABOUT_NOTES, Document, Sheet

_ESCAPES = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        **{letter: f"\\{letter}" for letter in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "±": r"$\pm$",
        "—": "---",
        "[": "{[}",
        "]": "{]}",
        '"': r"\textquotedbl{}",
    }
)


def to_latex(document: Document) -> str:
    """A ``table`` for each data set, then the notes, to stand in a document with booktabs, graphicx and encoding T1.

    >>> sheet = Sheet("MNIST", ["row", "Clean"], [["Ours & ACL", "98.0 [97.0, 99.0]"]], frozenset({(0, 1)}))
    >>> print(to_latex(Document(1, "A", "Budget smoke.", [sheet], ["100 %"], [], [])))
    % needs \\usepackage{booktabs,graphicx} and \\usepackage[T1]{fontenc}
    \\begin{table}
    \\centering
    \\caption{A (Table 1). MNIST. Budget smoke.}
    \\resizebox{\\ifdim\\width>\\linewidth \\linewidth\\else\\width\\fi}{!}{%
    \\begin{tabular}{lr}
    \\toprule
    row & Clean \\\\
    \\midrule
    Ours \\& ACL & \\textbf{98.0 {[}97.0, 99.0{]}} \\\\
    \\bottomrule
    \\end{tabular}}
    \\end{table}
    <BLANKLINE>
    {\\footnotesize\\raggedright
    100 \\%\\par
    }
    <BLANKLINE>
    """
    notes = [ABOUT_NOTES, *document.notes] if document.notes else []
    missing = ", ".join(name for name, _ in document.missing)
    below = [*document.remarks, *notes, *([f"Not measured: {missing}."] if missing else [])]
    lines = [
        r"% needs \usepackage{booktabs,graphicx} and \usepackage[T1]{fontenc}",
        *(line for sheet in document.sheets for line in _sheet(sheet, document)),
        r"{\footnotesize\raggedright",
        *(rf"{_escaped(line)}\par" for line in below),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _sheet(sheet: Sheet, document: Document) -> list[str]:
    def row(cells: list[str]) -> str:
        return " & ".join(cells) + r" \\"

    cells = sheet.marked(_escaped, lambda cell: rf"\textbf{{{_escaped(cell)}}}")
    title = f"{document.title} (Table {document.number})"
    caption = " ".join(f"{part.rstrip('.')}." for part in (title, sheet.title, document.budget) if part)
    return [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escaped(caption)}}}",
        r"\resizebox{\ifdim\width>\linewidth \linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{l{'r' * (len(sheet.header) - 1)}}}",
        r"\toprule",
        row([_escaped(cell) for cell in sheet.header]),
        r"\midrule",
        *map(row, cells),
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table}",
        "",
    ]


def _escaped(text: str) -> str:
    return printable(text).translate(_ESCAPES)
