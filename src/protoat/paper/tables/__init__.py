"""Tables: the paper's and one of ours, as declarations that say which runs they need and read their records."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from protoat.errors import UserError
from protoat.paper.tables.table import Table

__all__ = ["table_numbers", "table_of"]


def table_numbers() -> list[int]:
    """Numbers of the tables there are.

    >>> table_numbers()
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    """
    return sorted(int(path.stem.removeprefix("table")) for path in Path(__file__).parent.glob("table[0-9]*.py"))


def table_of(number: int | str) -> Table:
    """A table by its number.

    Raises:
        ValueError: there is none of that number.

    >>> table_of(7).rows[0].label
    '2/2'
    """
    known = [str(each) for each in table_numbers()]
    if str(number) not in known:
        raise UserError(f"table {str(number)!r} is unknown; write one of {', '.join(known)}")
    found: Table = import_module(f"protoat.paper.tables.table{number}").TABLE
    return found
