"""Two records on the same images, and means over seeds against scipy's own tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, fisher_exact, ttest_1samp, ttest_ind

from protoat.evaluation import Count
from protoat.evaluation.compare import (
    Comparison,
    Seeds,
    check_comparable,
    common_attacks,
    compare,
    decided,
    overlap,
    welch,
)
from protoat.evaluation.record import WORST_CASE, Evaluation
from protoat.evaluation.report import lowest_columns
from protoat.evaluation.statistics import Paired, fisher, interval_of_mean

RIGHT = st.lists(st.integers(100, 1000), min_size=2, max_size=6)


def seeds(right: list[int], total: int = 1000) -> Seeds:
    return Seeds(tuple(Count(each, total) for each in right))


def content(attacks: dict[str, str], **subject: Any) -> dict[str, Any]:
    """What `protoat evaluate` writes: outcomes of images whose halves are modes."""

    def entry(outcomes: str, **parameters: Any) -> dict[str, Any]:
        half = len(outcomes) // 2
        parts = {"low": outcomes[:half], "high": outcomes[half:]}
        modes = {name: {"correct": part.count("1"), "total": len(part)} for name, part in parts.items()}
        counts = {"correct": outcomes.count("1"), "total": len(outcomes), "per_mode": modes}
        counts["per_class"] = {"all": {"correct": counts["correct"], "total": counts["total"]}}
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


def record(attacks: dict[str, str], **subject: Any) -> Evaluation:
    """The same as it is read."""
    return Evaluation.from_json(content(attacks, **subject))


FIRST = record({"clean": "1" * 40, "pgd10": "1" * 20 + "0" * 20})
SECOND = record({"pgd10": "1" * 29 + "0" * 11, "clean": "1" * 39 + "0", "adaptive-leave": "1" * 25 + "0" * 15})


def test_differences_are_image_by_image() -> None:
    clean, pgd, worst = compare(FIRST, SECOND)
    assert [clean.attack, pgd.attack, worst.attack] == ["clean", "pgd10", WORST_CASE]
    assert pgd.pair == (0, 9, 40)
    assert (pgd.first, pgd.second) == ((20, 40), (29, 40))
    assert pgd.pair.difference == pytest.approx(9 / 40)
    assert worst.pair == (0, 5, 40)
    assert pgd.worst_modes == (("high", (0, 20)), ("high", (9, 20)))
    assert pgd.per_mode == {"low": ((20, 20), (20, 20)), "high": ((0, 20), (9, 20))}
    assert (
        pgd.p_of_worst_modes == pytest.approx(2 * fisher_exact([[0, 20], [9, 11]]).pvalue)
        and pgd.p_of_worst_modes < 0.05
    )
    assert clean.p_of_worst_modes == 1
    assert pgd.p_of_modes == {"low": 1, "high": pytest.approx(pgd.p_of_worst_modes / 2)}


def test_worst_modes_are_of_known_modes_only() -> None:
    plain = content({"pgd10": "1" * 20 + "0" * 20})
    for entry in (plain["worst_case"], plain["attacks"]["pgd10"]):
        entry["per_class"] = entry["per_mode"]
    one = Evaluation.from_json(plain)
    assert not one["pgd10"].has_modes and FIRST["pgd10"].has_modes
    assert one["pgd10"].lowest == ["high: 0.0"] and lowest_columns(one.attacks) == ["worst class"]
    assert FIRST["pgd10"].lowest == ["all: 50.0", "high: 0.0"]
    for each in compare(one, one):
        assert each.worst_modes is None and each.p_of_worst_modes is None and not each.per_mode and not each.p_of_modes


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=4))
@settings(max_examples=20)
def test_modes_are_tested_as_scipy_does(rights: list[tuple[int, int]]) -> None:
    tables = [[[first, 30 - first], [second, 30 - second]] for first, second in rights]
    own = fisher([(Count(first, 30), Count(second, 30)) for first, second in rights])
    assert own == pytest.approx([fisher_exact(table).pvalue for table in tables])
    one_sided = [fisher_exact([[3, 7], [25, 5]], side).pvalue for side in ("less", "greater")]
    assert fisher([(Count(3, 10), Count(25, 30))]) == pytest.approx([2 * min(one_sided)])
    assert fisher([]) == [] and fisher([(Count(0, 0), Count(0, 0)), (Count(0, 0), Count(5, 5))]) == [1, 1]


@pytest.mark.parametrize(
    ("first", "second"),
    [([0.6] * 20, [0.6] * 20), ([0.5] + [1.0] * 19, [0.5] * 20)],  # two equal models; equal in their worst modes only
)
def test_equal_models_seldom_differ_in_any_of_many_modes(first: list[float], second: list[float]) -> None:
    draws, images, random = 400, 50, np.random.default_rng(0)
    of_modes = of_worst = 0
    for _ in range(draws):
        rights = zip(*(random.binomial(images, chances) for chances in (first, second)), strict=True)
        modes = {str(k): (Count(int(a), images), Count(int(b), images)) for k, (a, b) in enumerate(rights)}
        found = Comparison("pgd10", Count(0, 0), Count(0, 0), Paired(0, 0, 1), modes)
        of_modes += any(shown for _, shown in decided(found.p_of_modes).values())
        of_worst += found.p_of_worst_modes < 0.05
    most = binom.ppf(0.999, draws, 0.05)
    assert of_worst <= most and (first != second or of_modes <= most)


def test_no_difference_where_chance_could_make_it() -> None:
    few = record({"pgd10": "1" * 22 + "0" * 18})
    (pgd, _) = compare(record({"pgd10": "0" + "1" * 19 + "0" * 20}), few)
    assert pgd.pair == (0, 3, 40)
    assert not decided({"pgd10": pgd.pair.p_value})["pgd10"][1]
    assert compare(FIRST, FIRST)[0].pair.p_value == 1


def test_one_of_many_tests_must_be_the_surer() -> None:
    alone = {"pgd10": 0.02}
    assert decided(alone)["pgd10"][1]
    corrected = decided(alone | {"clean": 0.5, "aa": 0.04})
    assert [shown for _, shown in corrected.values()] == [False] * 3
    assert decided(alone | {"clean": 0.5, "aa": 0.001})["aa"] == (pytest.approx(0.003), True)


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_rejects_step_by_step_as_he_wrote(p_values: list[float]) -> None:
    steps = sorted(range(len(p_values)), key=lambda place: p_values[place])
    rejected = set()
    for rank, place in enumerate(steps):
        if p_values[place] * (len(p_values) - rank) >= 0.05:
            break
        rejected.add(place)
    assert {place for place, (_, shown) in decided(dict(enumerate(p_values))).items() if shown} == rejected


def test_an_attack_with_other_parameters_is_another_attack() -> None:
    longer = content({"clean": "1" * 40, "pgd10": "1" * 40})
    longer["attacks"]["pgd10"]["parameters"]["steps"] = 20
    stronger = Evaluation.from_json(longer)
    assert common_attacks([FIRST, stronger]) == ["clean"]
    assert common_attacks([FIRST, SECOND, stronger]) == ["clean"]
    assert common_attacks([FIRST, record({"aa": "1" * 40})]) == []


def test_a_model_does_not_differ_from_itself_attacked_in_more_ways() -> None:
    longer = record({"clean": "1" * 40, "pgd10": "1" * 10 + "0" * 30})
    shorter = record({"clean": "1" * 40})
    assert [each.attack for each in compare(longer, shorter)] == ["clean"]
    assert [each.attack for each in compare(longer, longer)] == ["clean", "pgd10", WORST_CASE]


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
def test_other_images_or_another_threat_model_are_refused(other: Evaluation, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_comparable({"A": FIRST, "B": other})
    with pytest.raises(ValueError, match="the second cannot be compared with the first"):
        compare(FIRST, other)
    check_comparable({"A": FIRST, "B": SECOND})


@given(RIGHT, RIGHT)
def test_means_over_seeds_agree_with_scipy(first: list[int], second: list[int]) -> None:
    one, two = seeds(first), seeds(second)
    shares = [[right / 1000 for right in each] for each in (first, second)]
    assert (one.mean, one.deviation) == pytest.approx((np.mean(shares[0]), np.std(shares[0], ddof=1)), abs=1e-12)
    tested = welch(one, two)
    if not one.deviation or not two.deviation:
        assert tested is None
        return  # scipy warns that it computes nonsense
    student = ttest_1samp(shares[0], 0).confidence_interval()
    low, high = interval_of_mean(one.mean, 1000)
    assert one.interval == pytest.approx((min(low, student.low), max(high, student.high)))
    expected = ttest_ind(shares[1], shares[0], equal_var=False)
    assert tested is not None
    assert tested[0] == pytest.approx(tuple(expected.confidence_interval()))
    assert tested[1] == pytest.approx(expected.pvalue)


def test_seeds_that_agree_are_no_surer_than_one_run() -> None:
    same, other = seeds([90, 90], 100), seeds([91, 91, 91], 100)
    assert same.interval == seeds([90], 100).interval == Count(90, 100).interval
    assert seeds([90, 90, 91], 100).interval[1] >= Count(91, 100).interval[1]
    assert seeds([90], 100).deviation is None
    for one, two in ((same, other), (same, seeds([80, 90, 100], 100)), (same, seeds([91], 100))):
        assert welch(one, two) is None
        assert welch(two, one) is None


def test_overlap_is_symmetric_and_counts_a_shared_end() -> None:
    assert overlap((0, 1), (1, 2))
    assert overlap((1, 2), (0, 1))
    assert overlap((0, 3), (1, 2))
    assert not overlap((0, 1), (1.1, 2))
    assert not overlap((1.1, 2), (0, 1))


def test_the_worst_mode_is_the_one_with_the_least() -> None:
    assert FIRST["pgd10"].worst_mode == ("high", (0, 20))


def test_autoattack_is_found_under_its_version_and_radius() -> None:
    written = content(dict.fromkeys(("pgd10", "aa-k2@0.2", "aa-k2"), "11"))
    for name, entry in written["attacks"].items():
        entry["parameters"]["attack"] = "PGD" if name == "pgd10" else "AutoAttack"
    found = Evaluation.from_json(written)
    assert [found.recorded_name(name) for name in ("pgd10", "aa", "aa@0.2", "aa-k2")] == [
        "pgd10",
        "aa-k2",
        "aa-k2@0.2",
        "aa-k2",
    ]
    assert found["aa"] is found["aa-k2"]
    assert found.recorded_name("aa@0.3") is None
    with pytest.raises(KeyError, match="'pgd20' was not measured, only pgd10"):
        found["pgd20"]


def test_a_record_is_read_as_it_was_written() -> None:
    written = content({"clean": "1" * 40, "pgd10": "1" * 20 + "0" * 20}, head="prototypes", mean=None, std=[1.0])
    written["attacks"]["clean"] |= {"batch_size": 30, "device": "cpu", "commit": None}
    written |= {"test_images": 40, "lint": [{"code": "leak", "severity": "warning", "text": "seen twice"}]}
    assert Evaluation.from_json(written).to_json() == written
    for missing in ("worst_case", "test_images", "lint"):
        del written[missing]
        assert Evaluation.from_json(written).to_json() == written
