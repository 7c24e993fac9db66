"""How messages spell arguments: as a program does; or, while the command line runs, as its options."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, ClassVar


class Spelling:
    """That of a program: ``steps=10 and loss='ce'``.

    Attributes:
        between: stands between arguments that are to be written together.
    """

    between: ClassVar[str] = " and "

    def argument(self, name: str) -> str:
        """An argument alone."""
        return name

    def setting(self, name: str, value: Any) -> str:
        """An argument with its value."""
        return f"{name}={number(value) or repr(value)}"


class Verbatim(str):
    """A value in the words in which it came, which takes no quotes.

    >>> setting(seed=Verbatim("1.0"))
    'seed=1.0'
    """

    __repr__ = str.__str__


_current = [Spelling()]


def spell_by(spelling: Spelling | None) -> None:
    """Messages that arise from now on spell arguments so; None is as in a program."""
    _current[:] = [spelling or Spelling()]


def argument(name: str) -> str:
    """An argument of ours in a message.

    >>> argument("steps")
    'steps'
    """
    return _current[0].argument(name)


def setting(values: Mapping[str, Any] | None = None, /, **more: Any) -> str:
    """Arguments with values in a message.

    Args:
        values: where names are no identifiers, such as ``initialise.run``.
        **more: the others.

    >>> setting(merge_start=0.5, merge_stop=1), setting({"initialise.head": "random"})
    ('merge_start=0.5 and merge_stop=1', "initialise.head='random'")
    """
    *first, last = (_current[0].setting(name, value) for name, value in {**(values or {}), **more}.items())
    return f"{', '.join(first)} and {last}" if first else last


def together(**values: Any) -> str:
    """Arguments with values that a message asks for, all of them.

    >>> together(merge_start=0, merge_stop=1)
    'merge_start=0 and merge_stop=1'
    """
    return _current[0].between.join(_current[0].setting(name, value) for name, value in values.items())


def number(value: Any) -> str | None:
    """A number as messages write it; None for what is no number.

    >>> number(0.1 + 0.2), number(1000000), number(True)
    ('0.3', '1000000', None)
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    return str(int(value)) if isinstance(value, Integral) else f"{value:g}"
