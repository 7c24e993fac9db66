"""Types of records: what fits them is told fast, and what does not at length, and both agree."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protoat.records import schema
from protoat.records.schema import check_type
from protoat.records.types import Audit, Epoch, Evaluation, Facts, RecipeFile

PLAIN = st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=3)
KEYS = st.sampled_from(
    ["subject", "attacks", "epoch", "total", "lr", "seconds", "validation", "data", "clean", "images"]
)
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4))


@given(
    VALUES,
    st.sampled_from([Audit, Epoch, Evaluation, Facts, RecipeFile, dict[str, int], list[float], int | str | None]),
)
def test_fast_and_slow_agree(value: Any, expected: Any) -> None:
    assert schema._fitting(expected)(value) == (not list(schema._wrong(value, expected, "")))


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
