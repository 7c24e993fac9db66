"""Validates plain JSON values against typed classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from protoat.errors import UserError

__all__ = ["check_type"]

_WORDS: dict[Any, str] = {
    int: "a whole number, 0 or more",
    float: "a finite number",
    bool: "true or false",
    str: "text",
    NoneType: "null",
}


def check_type(value: Any, expected: Any, *, place: str = "") -> None:
    """Refuses a value that is not of a type.

    Args:
        value: what JSON or YAML held.
        expected: a plain type, ``list``, ``dict``, ``Literal`` or union of such, or a `TypedDict`. ``int`` means a
            count: a whole number, 0 or more; ``float`` a number that is finite. Keys that a `TypedDict` does not name
            may hold anything: a later version may write more.
        place: where the value stands, for the message.

    Raises:
        ValueError: names the place, what stands there and what is expected.

    >>> check_type({"total": 3}, dict[str, int])
    >>> check_type({"total": -3}, dict[str, int])
    Traceback (most recent call last):
    protoat.errors.UserError: total is -3, expected a whole number, 0 or more
    """
    if _fitting(expected)(value):
        return
    for where, found, wanted in _wrong(value, expected, place):
        raise UserError(f"{where or 'it'} is {_shown(found)}, expected {wanted}")


@lru_cache(maxsize=256)
def _fitting(expected: Any) -> Callable[[Any], bool]:  # noqa: PLR0911
    """Whether a value is of a type: what `_wrong` says at length, several times as fast."""
    kind, inner = get_origin(expected), get_args(expected)
    if expected is Any:
        return lambda value: True
    if kind in (Union, UnionType):
        choices = [_fitting(each) for each in inner]
        return lambda value: any(fits(value) for fits in choices)
    if kind is Literal:
        return lambda value: isinstance(value, str | int | None) and value in inner
    if kind is list:
        fits_each = _fitting(inner[0])
        return lambda value: isinstance(value, list) and all(map(fits_each, value))
    if kind is dict:
        fits_value = _fitting(inner[1])
        return lambda value: isinstance(value, dict) and all(map(fits_value, value.values()))
    if hasattr(expected, "__required_keys__"):
        return partial(_fits_class, expected)
    return partial(_is, expected=expected)


def _fits_class(expected: Any, value: Any) -> bool:
    return (
        isinstance(value, dict)
        and expected.__required_keys__ <= value.keys()
        and all(fits(value[key]) for key, fits in _fitting_keys(expected) if key in value)
    )


@lru_cache(maxsize=64)
def _fitting_keys(expected: Any) -> list[tuple[str, Callable[[Any], bool]]]:
    return [(key, _fitting(kind)) for key, kind in _hints(expected).items()]


def _wrong(value: Any, expected: Any, place: str) -> Iterator[tuple[str, Any, str]]:
    """Each place that does not hold what it should, with what it holds and what it should."""
    kind, inner = get_origin(expected), get_args(expected)
    if expected is Any:
        return
    if kind in (Union, UnionType):
        yield from _of_no(value, inner, place)
    elif kind is Literal:
        if not isinstance(value, str | int | None) or value not in inner:
            yield place, value, " or ".join(map(repr, inner))
    elif kind is list:
        if not isinstance(value, list):
            yield place, value, "a list"
            return
        for number, entry in enumerate(value):
            yield from _wrong(entry, inner[0], f"{place}[{number}]")
    elif kind is dict:
        if not isinstance(value, dict):
            yield place, value, "a mapping"
            return
        for key, entry in value.items():
            yield from _wrong(entry, inner[1], _below(place, key))
    elif hasattr(expected, "__required_keys__"):
        yield from _of_class(value, expected, place)
    elif not _is(value, expected):
        yield place, value, _WORDS[expected]


def _of_no(value: Any, choices: tuple[Any, ...], place: str) -> Iterator[tuple[str, Any, str]]:
    """Of a union whose parts are told apart by what kind of value they are."""
    wrong = [next(_wrong(value, choice, place), None) for choice in choices]
    if all(wrong):
        deeper = [found for found in wrong if found is not None and found[0] != place]
        wanted = " or ".join(dict.fromkeys(found[2] for found in wrong if found is not None))
        yield deeper[0] if deeper else (place, value, wanted)


def _of_class(value: Any, expected: Any, place: str) -> Iterator[tuple[str, Any, str]]:
    if not isinstance(value, dict):
        yield place, value, "a mapping"
        return
    for key, kind in _hints(expected).items():
        if key in value:
            yield from _wrong(value[key], kind, _below(place, key))
        elif key in expected.__required_keys__:
            yield _below(place, key), None, "to be there"


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


def _below(place: str, key: Any) -> str:
    return f"{place}.{key}" if place else str(key)


def _shown(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, dict | list):
        return f"a {'mapping' if isinstance(value, dict) else 'list'} of {len(value)}"
    text = repr(value) if value is not None else "not there or null"
    return text if len(text) <= 40 else f"{text[:37]}..."
