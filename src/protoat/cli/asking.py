"""Asks for confirmation before files are removed."""

from __future__ import annotations

import sys

from protoat.errors import UserError


def check_somebody_can_answer(what: str) -> None:
    """Refuses to remove things where no terminal is there to ask at.

    Raises:
        ValueError: says what to write instead.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        raise UserError(f"there is nobody to ask whether to remove {what} for good; write --yes to remove it unasked")


def agreed(question: str) -> bool:
    """Whether the user says yes."""
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
