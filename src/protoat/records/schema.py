"""Validates plain JSON values against typed classes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from protoat.errors import UserError

_WORDS: dict[Any, str] = {
    int: "a whole number, 0 or more",
    float: "a finite number",
    bool: "true or false",
    str: "text",
    NoneType: "null",
}


class _Wrong(NamedTuple):
    """A place below a value, what stands there, and what should."""

    place: str
    found: Any
    wanted: str


def check_type(value: Any, expected: Any) -> None:
    """Refuses a value that is not of a type.

    Args:
        value: what JSON or YAML held.
        expected: a plain type, ``list``, ``dict``, ``Literal`` or union of such, or a `TypedDict`. ``int`` means a
            count: a whole number, 0 or more; ``float`` a number that is finite. Keys that a `TypedDict` does not name
            may hold anything: a later version may write more.

    Raises:
        ValueError: names the place, what stands there and what is expected.

    >>> check_type({"total": 3}, dict[str, int])
    >>> check_type({"total": -3}, dict[str, int])
    Traceback (most recent call last):
    protoat.errors.UserError: total is -3, expected a whole number, 0 or more
    """
    if (wrong := _wrong(value, expected)) is not None:
        raise UserError(f"{wrong.place.removeprefix('.') or 'it'} is {_shown(wrong.found)}, expected {wrong.wanted}")


def _wrong(value: Any, expected: Any) -> _Wrong | None:  # noqa: PLR0911 - a case for each kind of type
    """The first thing about a value that is not as expected."""
    kind, inner = _parts(expected)
    if expected is Any:
        return None
    if kind in (Union, UnionType):
        return _of_no(value, inner)
    if kind is Literal:
        fits = isinstance(value, str | int | None) and value in inner
        return None if fits else _Wrong("", value, " or ".join(map(repr, inner)))
    if kind is list:
        if not isinstance(value, list):
            return _Wrong("", value, "a list")
        return _first((f"[{number}]", _wrong(entry, inner[0])) for number, entry in enumerate(value))
    if kind is dict or hasattr(expected, "__required_keys__"):
        if not isinstance(value, dict):
            return _Wrong("", value, "a mapping")
        if kind is dict:
            return _first((f".{key}", _wrong(entry, inner[1])) for key, entry in value.items())
        return _first(
            (f".{key}", _wrong(value[key], own) if key in value else _Wrong("", None, "to be there"))
            for key, own in _hints(expected).items()
            if key in value or key in expected.__required_keys__
        )
    return None if _is(value, expected) else _Wrong("", value, _WORDS[expected])


def _first(found: Iterable[tuple[str, _Wrong | None]]) -> _Wrong | None:
    """The first that is wrong, by its place from above."""
    return next((wrong._replace(place=at + wrong.place) for at, wrong in found if wrong is not None), None)


def _of_no(value: Any, choices: tuple[Any, ...]) -> _Wrong | None:
    """Of a union whose parts are told apart by what kind of value they are."""
    wrong = []
    for choice in choices:
        if (found := _wrong(value, choice)) is None:
            return None
        wrong.append(found)
    deeper = [found for found in wrong if found.place]
    return deeper[0] if deeper else _Wrong("", value, " or ".join(dict.fromkeys(found.wanted for found in wrong)))


@lru_cache(maxsize=256)
def _parts(expected: Any) -> tuple[Any, tuple[Any, ...]]:
    return get_origin(expected), get_args(expected)


@lru_cache(maxsize=64)
def _hints(expected: Any) -> Mapping[str, Any]:
    return get_type_hints(expected)


def _is(value: Any, expected: Any) -> bool:
    if expected is bool or isinstance(value, bool):
        return expected is bool and isinstance(value, bool)
    if expected is int:
        return isinstance(value, int) and 0 <= value < 2**63
    if expected is float:
        return isinstance(value, int | float) and abs(value) < 1e300 and math.isfinite(value)
    return isinstance(value, expected)


def _shown(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, dict | list):
        return f"a {'mapping' if isinstance(value, dict) else 'list'} of {len(value)}"
    text = repr(value) if value is not None else "not there or null"
    return text if len(text) <= 40 else f"{text[:37]}..."
