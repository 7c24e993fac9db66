"""Two records on the same images, and means over seeds against scipy's own tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp, ttest_ind

from protoat.evaluation.compare import (
    WORST_CASE,
    Seeds,
    check_comparable,
    common_attacks,
    compare,
    overlap,
    welch,
    worst_mode,
)

ACCURACY = st.floats(0.1, 1.0)


def record(attacks: dict[str, str], **subject: Any) -> dict[str, Any]:
    """What `protoat evaluate` writes, as far as it is read: outcomes of images whose halves are modes."""

    def entry(outcomes: str, **parameters: Any) -> dict[str, Any]:
        half = len(outcomes) // 2
        parts = {"low": outcomes[:half], "high": outcomes[half:]}
        modes = {name: {"correct": part.count("1"), "total": len(part)} for name, part in parts.items()}
        counts = {"correct": outcomes.count("1"), "total": len(outcomes), "per_mode": modes, "per_class": modes}
        return {**counts, "outcomes": outcomes, "parameters": parameters, "seconds": 1.0}

    worst = "".join(min(column) for column in zip(*attacks.values(), strict=True))
    measured_on = {
        "weights": "best.safetensors",
        "sha256": "ab",
        "data": "Digits test",
        "data_sha256": "0123456789",
        "images": len(worst),
        "threat": {"norm": "linf", "eps": 0.1},
    }
    return {
        "subject": measured_on | subject,
        "attacks": {name: entry(outcomes, attack=name, eps=0.1) for name, outcomes in attacks.items()},
        "worst_case": entry(worst, attacks=list(attacks), norm="linf", eps=0.1),
    }


FIRST = record({"clean": "1" * 40, "fgsm": "1" * 30 + "0" * 10, "pgd10": "1" * 20 + "0" * 20})
SECOND = record({"pgd10": "1" * 29 + "0" * 11, "clean": "1" * 39 + "0", "aa": "1" * 25 + "0" * 15})


def test_differences_are_image_by_image() -> None:
    clean, pgd, worst = compare(FIRST, SECOND)
    assert [clean.attack, pgd.attack, worst.attack] == ["clean", "pgd10", WORST_CASE]
    assert pgd.pair == (0, 9, 40)
    assert (pgd.first, pgd.second) == ((20, 40), (29, 40))
    assert pgd.pair.difference == pytest.approx(9 / 40)
    assert pgd.shown
    assert not clean.shown
    assert worst.pair == (0, 5, 40)
    assert pgd.worst_modes == (("high", (0, 20)), ("high", (9, 20)))
    assert pgd.shown_in_worst_mode
    assert not clean.shown_in_worst_mode


def test_no_difference_where_chance_could_make_it() -> None:
    few = record({"pgd10": "1" * 22 + "0" * 18})
    (pgd, _) = compare(record({"pgd10": "0" + "1" * 19 + "0" * 20}), few)
    assert pgd.pair == (0, 3, 40)
    assert not pgd.shown
    assert not compare(FIRST, FIRST)[0].shown


def test_an_attack_with_other_parameters_is_another_attack() -> None:
    stronger = record({"clean": "1" * 40, "pgd10": "1" * 40})
    stronger["attacks"]["pgd10"]["parameters"]["steps"] = 20
    assert common_attacks([FIRST, stronger]) == ["clean", WORST_CASE]
    assert common_attacks([FIRST, SECOND, stronger]) == ["clean", WORST_CASE]
    assert common_attacks([FIRST, record({"aa": "1" * 40})]) == [WORST_CASE]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            record({"clean": "1" * 40}, data_sha256="fedcba9876"),
            r"on Digits test \(fedcba98\), there Digits test \(0123",
        ),
        (record({"clean": "1" * 30}), "B cannot be compared with A: it was measured on 30 images, there 40 images"),
        (
            record({"clean": "1" * 40}, threat={"norm": "l2", "eps": 1.0}),
            r"on l2 1, there linf 0\.1; measure both alike",
        ),
    ],
)
def test_other_images_or_another_threat_model_are_refused(other: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_comparable({"A": FIRST, "B": other})
    with pytest.raises(ValueError, match="the second cannot be compared with the first"):
        compare(FIRST, other)
    check_comparable({"A": FIRST, "B": SECOND})


@given(st.lists(ACCURACY, min_size=2, max_size=6), st.lists(ACCURACY, min_size=2, max_size=6))
def test_means_over_seeds_agree_with_scipy(first: list[float], second: list[float]) -> None:
    one, two = Seeds(tuple(first)), Seeds(tuple(second))
    assert (one.mean, one.deviation) == pytest.approx((np.mean(first), np.std(first, ddof=1)), abs=1e-12)
    if min(one.deviation, two.deviation) < 1e-6:
        return  # scipy warns that it computes nonsense
    assert one.interval == pytest.approx(tuple(ttest_1samp(first, 0).confidence_interval()))
    expected = ttest_ind(second, first, equal_var=False)
    interval, p = welch(one, two)
    assert interval == pytest.approx(tuple(expected.confidence_interval()))
    assert p == pytest.approx(expected.pvalue)


def test_seeds_without_spread() -> None:
    same, other = Seeds((0.5, 0.5)), Seeds((0.75, 0.75, 0.75))
    assert welch(same, same) == ((0, 0), 1)
    assert welch(same, other) == ((0.25, 0.25), 0)
    assert same.interval == (0.5, 0.5)


def test_overlap_is_symmetric_and_counts_a_shared_end() -> None:
    assert overlap((0, 1), (1, 2))
    assert overlap((1, 2), (0, 1))
    assert overlap((0, 3), (1, 2))
    assert not overlap((0, 1), (1.1, 2))
    assert not overlap((1.1, 2), (0, 1))


def test_the_worst_mode_is_the_one_with_the_least() -> None:
    assert worst_mode(FIRST["attacks"]["fgsm"]) == ("high", (10, 20))
