"""Says what a command finds: lines and tables, or one JSON document for ``--json``."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from protoat.names import printable

_KEPT: ContextVar[dict[str, Any] | None] = ContextVar("document", default=None)


@contextmanager
def document(command: str) -> Iterator[dict[str, Any]]:
    """Keeps what a command prints meanwhile.

    Args:
        command: its name.

    Yields:
        ``{"command": ..., "tables": [{"title", "rows": [{column: cell}]}], "lines": [...]}``, and what `keep` is given.
    """
    kept: dict[str, Any] = {"command": command, "tables": [], "lines": []}
    token = _KEPT.set(kept)
    try:
        yield kept
    finally:
        _KEPT.reset(token)


def is_wanted() -> bool:
    """Whether a document is made."""
    return _KEPT.get() is not None


def keep(name: str, value: Any) -> None:
    """Adds plain values to the document under a name of their own, such as a record."""
    kept = _KEPT.get()
    if kept is not None:
        kept[name] = json.loads(json.dumps(value))


def say(text: str, *, end: str = "\n", lines: bool = False, flush: bool = False) -> None:
    """Prints a text, without control characters, or adds it to the document.

    Args:
        text: may hold names from outside, see `protoat.names.printable`.
        end, flush: as of `print`.
        lines: it has several lines.

    >>> say("class cat\\x1b[2J")
    class cat\\x1b[2J
    """
    kept, text = _KEPT.get(), printable(text, lines=lines)
    if kept is None:
        print(text, end=end, flush=flush)
    else:
        kept["lines"].append(text.rstrip("\n"))


def keep_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], names: Collection[str]) -> None:
    """Adds what would have been printed as a table; cells that are finite numbers, as JSON has them, become numbers.

    Args:
        names: the columns that hold names, which stay text whatever they look like.

    >>> with document("ls") as kept:
    ...     keep_table("modes", ["mode", "%"], [["0", "75.0"], ["1e5", ""]], ["mode"])
    >>> kept["tables"]
    [{'title': 'modes', 'rows': [{'mode': '0', '%': 75.0}, {'mode': '1e5', '%': None}]}]
    """
    kept = _KEPT.get()
    if kept is not None:
        named = [zip(columns, row, strict=True) for row in rows]
        found = [{key: (cell or None) if key in names else _value(cell) for key, cell in row} for row in named]
        kept["tables"].append({"title": title, "rows": found})


def _value(cell: str) -> Any:
    text = cell.replace(",", "")
    try:
        number = float(text)
    except ValueError:
        return cell or None
    if not math.isfinite(number):
        return cell
    return int(number) if number.is_integer() and "." not in text and "e" not in text.lower() else number
