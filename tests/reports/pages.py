"""Reads a page of HTML back with the standard library's parser."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

SECTIONS = [
    "Summary",
    "Attacked images",
    "Classes and modes",
    "Attacks",
    "Map of embeddings",
    "Prototypes",
    "Retrieval",
    "Training",
    "Audit",
    "Lint",
    "Recipe",
    "Environment",
    "Do it again",
]


class Page(HTMLParser):
    """What a page holds.

    Attributes:
        tables: rows of cells by caption.
        headings: ("h2", text) in order.
        elements: (tag, attributes) in order.
        scripts: (attributes, text).
        code: texts to be copied, by their headings.
        words: all text outside scripts and styles.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.headings: list[tuple[str, str]] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.code: dict[str, str] = {}
        self.words = ""
        self._open: list[str] = []
        self._rows: list[list[str]] = []
        self._caption = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("meta", "link", "img", "br", "input"):
            return
        self._open.append(tag)
        if tag == "table":
            self._rows, self._caption = [], ""
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")
        elif tag in ("h1", "h2", "h3", "h4", "h5"):
            self.headings.append((tag, ""))
        elif tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass
        if tag == "table":
            self.tables[self._caption.strip()] = [[" ".join(cell.split()) for cell in row] for row in self._rows]

    def handle_data(self, data: str) -> None:
        if "script" in self._open:
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
            return
        if "style" in self._open:
            return
        self.words += data
        if "caption" in self._open:
            self._caption += data
        elif any(tag in self._open for tag in ("td", "th")):
            self._rows[-1][-1] += data
        elif self._open and self._open[-1] in ("h1", "h2", "h3", "h4", "h5"):
            tag, text = self.headings[-1]
            self.headings[-1] = (tag, text + data)
        elif "code" in self._open:
            title = self.headings[-1][1]
            self.code[title] = self.code.get(title, "") + data
