"""Names in what we print: the known one that a user may have meant, and those from outside made safe."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

# Controls (escape sequences begin with one), halves of characters, and what reorders or hides text.
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")

_SPECIAL = re.compile(r"([\\`*_<>\[\]|])")


def nearest(word: str, known: Iterable[str], *, instead: str = "") -> str:
    """A hint for a word that is not among the known ones.

    Args:
        word: what came.
        known: the choices.
        instead: the hint where none is near; default all of them.

    >>> nearest("FreAT", ["PGDAT", "FreeAT"])
    "did you mean 'FreeAT'?"
    >>> nearest("xyz", ["b", "a"])
    'write one of a, b'
    """
    known = sorted(set(known))
    ignoring_case = {name.lower(): name for name in known}
    near = get_close_matches(word.lower(), ignoring_case, n=1)
    return f"did you mean {ignoring_case[near[0]]!r}?" if near else instead or f"write one of {', '.join(known)}"


def printable(text: str, *, lines: bool = False) -> str:
    r"""Text without characters that move the cursor, change colours, or hide or reorder others: they are spelled out.

    Args:
        text: may hold a name from outside.
        lines: leave ends of lines as they are.

    >>> printable("cat\x1b[2J"), printable("a\nb"), printable("a\nb", lines=True), printable("Größe: 8 ± 1")
    ('cat\\x1b[2J', 'a\\nb', 'a\nb', 'Größe: 8 ± 1')
    >>> printable("abc\u202ecba")
    'abc\\u202ecba'
    """
    return _UNSEEN.sub(lambda found: found[0] if lines and found[0] == "\n" else _spelled(found[0]), text)


def csv_cell(value: object) -> object:
    """A value for a CSV file, which spreadsheets open: what they would compute becomes text.

    >>> csv_cell("=1+1"), csv_cell("-0.5"), csv_cell(-0.5), csv_cell("pgd10")
    ("'=1+1", '-0.5', -0.5, 'pgd10')
    """
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if value[:1] in tuple("=+-@\t\r") and not _is_number(value) else text


def markdown_text(text: str) -> str:
    r"""Text that is read as it stands, within a line or a cell of a table in Markdown.

    >>> markdown_text("a|b_<c>")
    'a\\|b\\_\\<c\\>'
    """
    return _SPECIAL.sub(r"\\\1", printable(text))


def _spelled(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
