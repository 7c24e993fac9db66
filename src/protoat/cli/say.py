"""Prints lines, without control characters from names of folders, classes and files."""

from __future__ import annotations

from protoat.cli.document import is_wanted, keep_line
from protoat.names import printable


def say(text: str, *, end: str = "\n", lines: bool = False, flush: bool = False) -> None:
    """Prints a text.

    Args:
        text: may hold names from outside, see `protoat.names.printable`.
        end, flush: as of `print`.
        lines: it has several lines.

    >>> say("class cat\\x1b[2J")
    class cat\\x1b[2J
    """
    if is_wanted():
        keep_line(printable(text, lines=lines))
    else:
        print(printable(text, lines=lines), end=end, flush=flush)
