"""Refuses places that hold what somebody else has put there, before anything is written over."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from protoat.errors import UserError
from protoat.names import printable


def check_holds_no_others(where: str, names: Iterable[str], ours: Collection[str], *, of: str, instead: str) -> None:
    """Refuses a place with a file that is none of ours.

    Args:
        where: what is named in the message.
        names: of the files there.
        ours: those that may be written over.
        of: what ours are of.
        instead: what else to choose.

    Raises:
        ValueError: names one of the others.

    >>> check_holds_no_others("served", ["README.md", "notes.txt"], ["README.md"], of="export", instead="folder")
    Traceback (most recent call last):
    protoat.errors.UserError: served holds notes.txt, which is of no export; choose another folder
    """
    if others := sorted(set(names) - set(ours)):
        raise UserError(f"{where} holds {printable(others[0])}, which is of no {of}; choose another {instead}")
