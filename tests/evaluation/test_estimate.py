"""Accuracies over groups and their differences, against loops over images and scipy's paired t-test."""

from __future__ import annotations

from statistics import fmean

import numpy as np
import pytest
import torch
from scipy.stats import ttest_rel
from torch import Tensor

from protoat.evaluation.estimate import Outcome, Over, estimate


def drawn(seed: int, *shares: float, number: int = 300) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(number, generator=generator) < share for share in shares]


GROUPS = torch.arange(300) % 3


def slow(correct: list[bool], groups: list[int], over: str) -> float:
    """A loop over images."""
    by_group: dict[int, list[bool]] = {}
    for right, group in zip(correct, groups, strict=True):
        by_group.setdefault(group, []).append(right)
    shares = [sum(own) / len(own) for own in by_group.values()]
    return min(shares) if over == "least" else fmean(shares)


@pytest.mark.parametrize("over", ["mean", "least"])
def test_a_value_and_its_resampling_are_loops_over_images(over: Over) -> None:
    first, second = drawn(0, 0.6, 0.7)
    found = Outcome(second, GROUPS, over, baseline=first)
    names = GROUPS.tolist()
    assert found.value == pytest.approx(slow(second.tolist(), names, over) - slow(first.tolist(), names, over))
    draws = np.random.default_rng(1).integers(300, size=(5, 300))
    weights = np.stack([np.bincount(draw, minlength=300) for draw in draws]).astype(float)
    expected = [
        slow(second[draw].tolist(), GROUPS[draw].tolist(), over)
        - slow(first[draw].tolist(), GROUPS[draw].tolist(), over)
        for draw in map(torch.from_numpy, draws)
    ]
    np.testing.assert_allclose(found.resampled(weights), expected)


def test_a_group_that_a_set_misses_says_nothing() -> None:
    found = Outcome(torch.tensor([True, False, False]), torch.tensor([0, 1, 4]), "least")
    np.testing.assert_allclose(found.resampled(np.array([[1.0, 0.0, 0.0], [2.0, 1.0, 0.0]])), [1.0, 0.0])


def test_gains_of_seeds_are_those_of_a_paired_test() -> None:
    pairs = [drawn(seed, 0.6, 0.68) for seed in range(5)]
    found = estimate([Outcome(second, GROUPS, baseline=first) for first, second in pairs])
    values = [[slow(mask.tolist(), GROUPS.tolist(), "mean") for mask in side] for side in zip(*pairs, strict=True)]
    expected = ttest_rel(values[1], values[0])
    assert found.mean == pytest.approx(fmean(values[1]) - fmean(values[0]))
    assert found.p_value == pytest.approx(expected.pvalue)
    student = expected.confidence_interval(0.95)
    assert found.interval[0] <= student.low + 1e-9 and found.interval[1] >= student.high - 1e-9


def test_seeds_that_agree_are_no_surer_than_the_images() -> None:
    first, second = drawn(7, 0.6, 0.7)
    one = estimate([Outcome(second, GROUPS, baseline=first)])
    five = estimate([Outcome(second, GROUPS, baseline=first)] * 5)
    assert five.interval == one.interval and five.p_value is None
    paired = float((second.float() - first.float()).std()) / 300**0.5
    low, high = one.interval
    assert high - low == pytest.approx(2 * 1.96 * paired, rel=0.1)  # of the normal approximation


def test_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match="on the same images"):
        estimate([Outcome(*drawn(0, 0.5), GROUPS), Outcome(torch.ones(2) > 0, GROUPS[:2])])
    with pytest.raises(ValueError, match="not of the same 300 images"):
        _ = Outcome(*drawn(0, 0.5), GROUPS[:10]).value
