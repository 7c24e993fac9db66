"""McNemar's test against a sum over binomials, and the bootstrap against scipy's own."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap

from protoat.evaluation.statistics import Paired


def exact(only_first: int, only_second: int) -> tuple[Fraction, Fraction]:
    """Two-sided and one-sided p: every split of the disagreement by fair coins, added up without rounding."""
    count = only_first + only_second
    share = [Fraction(comb(count, k), 2**count) for k in range(count + 1)]
    return sum(p for p in share if p <= share[only_second]), sum(share[only_second:])


@given(st.integers(0, 40), st.integers(0, 40))
def test_p_is_the_sum_of_splits_at_least_so_uneven(only_first: int, only_second: int) -> None:
    pair = Paired(only_first, only_second, 100)
    two_sided, above = exact(only_first, only_second)
    assert pair.p_value == pytest.approx(float(two_sided), abs=1e-12)
    assert pair.p_above == pytest.approx(float(above), abs=1e-12)


@settings(max_examples=30)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 100))
def test_turned_around_only_the_sign_changes(only_first: int, only_second: int, alike: int) -> None:
    total = only_first + only_second + alike
    pair, back = Paired(only_first, only_second, total), Paired(only_second, only_first, total)
    assert pair.difference == -back.difference
    assert pair.p_value == pytest.approx(back.p_value)
    low, high = pair.interval()
    assert -1 <= low <= high <= 1
    # The difference itself lies in its interval, up to the grain of whole images.
    assert low - 1 / total <= pair.difference <= high + 1 / total


def test_counts_come_from_outcomes() -> None:
    first = torch.tensor([True, True, False, False, True])
    second = torch.tensor([True, False, True, False, False])
    assert Paired.of(first, second) == (2, 1, 5)
    assert Paired.of(first, second).difference == pytest.approx(second.float().mean() - first.float().mean())
    with pytest.raises(ValueError, match="are not of one set"):
        Paired.of(first, second[:4])


def test_interval_is_the_bootstrap_over_images() -> None:
    difference = np.array([-1] * 14 + [1] * 31 + [0] * 155)
    low, high = Paired(14, 31, 200).interval()
    expected = bootstrap(
        (difference,), np.mean, method="percentile", n_resamples=10_000, random_state=np.random.default_rng(1)
    ).confidence_interval
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.0051)
    assert Paired(14, 31, 200).interval() == (low, high)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).multinomial(400, [0.05, 0.08, 0.87], 300)
    covered = [low <= 0.03 <= high for a, b, _ in draws for low, high in [Paired(a, b, 400).interval(resamples=2000)]]
    assert 0.91 < np.mean(covered) < 0.98


def test_nothing_to_tell_apart() -> None:
    pair = Paired(0, 0, 50)
    assert (pair.p_value, pair.p_above, pair.interval()) == (1.0, 1.0, (0.0, 0.0))
