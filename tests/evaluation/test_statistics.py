"""Counts against the formulas written out."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from protoat.evaluation.statistics import Count, count_by, interval_of_mean, worst

_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution


def wilson(correct: int, total: int) -> tuple[float, float]:
    """Wilson 1927, equation as in the textbook."""
    p, z2 = correct / total, _Z**2
    centre = (p + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z / (1 + z2 / total) * math.sqrt(p * (1 - p) / total + z2 / (4 * total**2))
    return centre - half, centre + half


@given(st.integers(1, 10_000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_interval_is_wilsons(counts: tuple[int, int]) -> None:
    assert Count(*counts).interval == pytest.approx(wilson(*counts), abs=1e-9)


def test_interval_of_nothing_says_nothing() -> None:
    assert Count(0, 0).interval == (0.0, 1.0)
    assert math.isnan(Count(0, 0).accuracy)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=30))
def test_count_by_counts_as_a_loop_does(images: list[tuple[bool, int]]) -> None:
    names = ["a", "b", "c", "d"]
    expected: dict[str, list[int]] = {}
    for right, group in sorted(images, key=lambda image: image[1]):
        tally = expected.setdefault(names[group], [0, 0])
        tally[0] += right
        tally[1] += 1
    correct = torch.tensor([right for right, _ in images], dtype=torch.bool)
    index = torch.tensor([group for _, group in images], dtype=torch.int64)
    assert count_by(correct, index, names) == {name: tuple(tally) for name, tally in expected.items()}


def test_worst_compares_fractions_not_counts() -> None:
    assert worst({"large": Count(50, 100), "small": Count(2, 5), "tiny": Count(2, 5)}) == ("small", (2, 5))


@given(st.integers(1, 10_000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_the_interval_of_a_mean_is_that_of_the_counts_around_it(counts: tuple[int, int]) -> None:
    correct, total = counts
    assert interval_of_mean(correct / total, total) == Count(correct, total).interval
    low, high = interval_of_mean((correct + 0.5) / (total + 1), total + 1)
    assert (low, high) == (Count(correct, total + 1).interval[0], Count(correct + 1, total + 1).interval[1])
