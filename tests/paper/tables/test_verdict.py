"""Who is best, and where no difference is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from protoat.paper.tables.verdict import rankings, seeds_of, verdicts
from protoat.runs.run import Run

from .records import record
from .test_fill import cell


def wilson(correct: int, total: int) -> tuple[float, float]:
    """Written from the formula: Wilson, JASA 1927, with z = 1.959964."""
    z, share = 1.959964, correct / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * (share * (1 - share) / total + z * z / (4 * total * total)) ** 0.5
    return middle - half, middle + half


def test_one_run_has_the_interval_over_its_images(filled_with, tmp_path: Path) -> None:
    table = filled_with({"cifar10-pgd-mine-0": record(tmp_path, 180, 90, 80)})
    found = seeds_of(table.values(cell(table, 0, "PGD10")))
    assert found is not None
    assert found.interval == pytest.approx(wilson(90, 200), abs=1e-6)
    assert (found.mean, found.deviation, found.images, len(found.counts)) == (0.45, None, (200, 200), 1)


def seeds(tmp_path: Path, row: str, *pgd10: int) -> dict[str, Run]:
    """A run for each seed, by what it leaves right of 200."""
    return {
        f"cifar10-{row}-mine-{seed}": record(tmp_path / f"{row}-{seed}", 180, right, 80)
        for seed, right in enumerate(pgd10)
    }


def test_several_runs_have_the_interval_over_seeds(filled_with, tmp_path: Path) -> None:
    table = filled_with(seeds(tmp_path, "pgd", 72, 92, 112), seeds=(0, 1, 2))
    found = seeds_of(table.values(cell(table, 0, "PGD10")))
    assert found is not None
    assert (found.mean, found.deviation, len(found.counts)) == (pytest.approx(0.46), pytest.approx(0.1), 3)
    half = 4.302653 * 0.1 / 3**0.5  # Student's quantile of two degrees of freedom
    assert found.interval == pytest.approx((0.46 - half, 0.46 + half), abs=1e-6)


@pytest.mark.parametrize("right", [(92, 92), (92, 92, 92), (91, 92, 93)])
def test_seeds_that_agree_are_no_surer_than_the_images_of_one(
    filled_with, tmp_path: Path, right: tuple[int, ...]
) -> None:
    table = filled_with(seeds(tmp_path, "pgd", *right), seeds=tuple(range(len(right))))
    found = seeds_of(table.values(cell(table, 0, "PGD10")))
    assert found is not None
    assert found.interval == pytest.approx(wilson(92, 200), abs=1e-6)


def test_seeds_that_agree_claim_no_winner_by_it(filled_with, tmp_path: Path) -> None:
    runs = seeds(tmp_path, "pgd", 92, 92) | seeds(tmp_path, "free", 150, 150) | seeds(tmp_path, "ours", 152, 152)
    table = filled_with(runs, seeds=(0, 1))
    judged = verdicts(table)
    assert [judged[cell(table, row, "PGD10")] for row in range(3)] == ["lower", *["no difference shown"] * 2]
    ranking = next(ranking for ranking, _ in rankings(table) if ranking.of.attack == "pgd10")
    assert (ranking.best, ranking.alike, ranking.lower) == ("Ours", ("Free_AT & co",), ("PGD-AT",))


def test_a_single_run_is_compared_with_several(filled_with, tmp_path: Path) -> None:
    runs = seeds(tmp_path, "pgd", 92, 92) | seeds(tmp_path, "free", 60, 140) | seeds(tmp_path, "ours", 152)
    table = filled_with(runs, seeds=(0, 1))
    found = [seeds_of(table.values(cell(table, row, "PGD10"))) for row in range(3)]
    assert [each and len(each.counts) for each in found] == [2, 2, 1]
    assert [each and each.deviation is None for each in found] == [False, False, True]
    judged = verdicts(table)
    # Two seeds that lie far apart say little, though their mean is lower than that of both others.
    assert [judged[cell(table, row, "PGD10")] for row in range(3)] == ["lower", *["no difference shown"] * 2]


def test_the_best_is_named_only_where_intervals_are_apart(filled_with, tmp_path: Path) -> None:
    table = filled_with(
        {
            "cifar10-pgd-mine-0": record(tmp_path / "a", 180, 90, 80),
            "cifar10-free-mine-0": record(tmp_path / "b", 100, 60, 80),
            "cifar10-ours-mine-0": record(tmp_path / "c", 185, 140, 79),
        }
    )
    judged = verdicts(table)
    clean, pgd10, aa = (
        [judged[cell(table, row, name)] for row in range(3)] for name in ("Clean", "PGD10", "AutoAttack")
    )
    assert clean == ["no difference shown", "lower", "no difference shown"]
    assert pgd10 == ["lower", "lower", "best"]
    assert aa == ["no difference shown"] * 3
    ranking = next(ranking for ranking, _ in rankings(table) if ranking.of.attack == "clean")
    assert (ranking.best, ranking.alike, ranking.lower) == ("Ours", ("PGD-AT",), ("Free_AT & co",))


def test_a_single_measured_row_is_compared_with_nothing(filled_with, tmp_path: Path) -> None:
    table = filled_with({"cifar10-pgd-mine-0": record(tmp_path, 180, 90, 80)})
    assert verdicts(table) == {}


def test_minutes_have_no_winner(filled_with, tmp_path: Path) -> None:
    runs = {f"cifar10-{name}-mine-0": record(tmp_path / name, 180, 90, 80) for name in ("pgd", "ours")}
    assert {ranking.of.read for ranking, _ in rankings(filled_with(runs))} == {"accuracy", "worst mode"}
