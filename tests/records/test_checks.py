"""Types of records: what does not fit them is named with its place."""

from __future__ import annotations

import math
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protoat.errors import UserError
from protoat.records.checks import check_type
from protoat.records.types import Audit, Epoch, Evaluation, Facts, RecipeFile

# Letters are given: to find all that Unicode has takes seconds where Hypothesis has no folder to keep them in.
PLAIN = st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text("a0. \n\0é😀", max_size=3)
KEYS = st.sampled_from(
    ["subject", "attacks", "epoch", "total", "lr", "seconds", "validation", "data", "clean", "images"]
)
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4))


@given(
    VALUES,
    st.sampled_from([Audit, Epoch, Evaluation, Facts, RecipeFile, dict[str, int], list[float], int | str | None]),
)
def test_what_fits_is_let_through_and_nothing_else(value: Any, expected: Any) -> None:
    if fits(value, expected):
        check_type(value, expected)
    else:
        with pytest.raises(UserError):
            check_type(value, expected)


def fits(value: Any, expected: Any) -> bool:  # noqa: PLR0911 - a case for each kind of type
    """The rule again, without places and words."""
    if hasattr(expected, "__required_keys__"):
        known, marked = get_type_hints(expected), get_type_hints(expected, include_extras=True)
        needed = {key for key in expected.__required_keys__ if get_origin(marked[key]) is not Annotated}
        there = isinstance(value, dict) and needed <= value.keys()
        return there and all(fits(entry, known[key]) for key, entry in value.items() if key in known)
    kind, inner = get_origin(expected), get_args(expected)
    if kind is dict:
        return isinstance(value, dict) and all(fits(entry, inner[1]) for entry in value.values())
    if kind is list:
        return isinstance(value, list) and all(fits(entry, inner[0]) for entry in value)
    if kind is Literal:
        return not isinstance(value, bool | float | list | dict) and value in inner
    if inner:
        return any(fits(value, choice) for choice in inner)
    if expected is Any or expected is NoneType:
        return expected is Any or value is None
    if expected in (int, float):
        number = isinstance(value, (int, float) if expected is float else int) and not isinstance(value, bool)
        return number and (math.isfinite(value) if expected is float else value >= 0)
    return type(value) is expected


@pytest.mark.parametrize(
    ("value", "expected", "message"),
    [
        ({"epoch": 1, "total": 1.0, "lr": 1, "seconds": True}, Epoch, "seconds is True, expected a finite number"),
        ({"epoch": 1.0, "total": 1.0, "lr": 1, "seconds": 1}, Epoch, "epoch is 1.0, expected a whole number"),
        ({"sessions": [{"command": "x"}]}, Facts, r"sessions\[0\]\.command is 'x', expected a list"),
        (
            {"data": {"class_path": "x"}, "groups": 1.5},
            RecipeFile,
            "groups is 1.5, expected a whole number, 0 or more or",
        ),
        (float("nan"), float, "it is nan, expected a finite number"),
        (10**400, float, "expected a finite number"),
        ([[1]], list[int], r"\[0\] is a list of 1, expected a whole number"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(value: Any, expected: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_type(value, expected)


def test_keys_of_a_later_version_are_let_through() -> None:
    check_type({"epoch": 1, "total": 1.0, "lr": 0.1, "seconds": 2, "later": [None]}, Epoch)
