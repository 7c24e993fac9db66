"""The runs of figures are those of the tables where both ask for the same."""

from __future__ import annotations

import pytest

from protoat.experiments.budget import read_budget
from protoat.figures.runs import eps_sweep, plain, prototype_sweep, retrieval_runs, steps_sweep
from protoat.tables import setups


@pytest.mark.parametrize("budget", ["smoke", "cpu", "paper"])
def test_figure_4_shares_its_runs_with_the_tables(budget: str) -> None:
    found = [task.job.identity for task in retrieval_runs(read_budget(budget))]
    rows = (setups.PGD, setups.TLA, setups.ROCL, setups.OURS)
    assert found == [row.job(setups.CIFAR10_2, read_budget(budget), seed=0).identity for row in rows]


def test_figure_3_varies_the_prototypes_only() -> None:
    recipes = [task.job.recipe for task in prototype_sweep(read_budget("paper"))]
    numbers = [recipe.regularizer(2, 8).active.sum(1).tolist() for recipe in recipes if recipe.regularizer]
    assert numbers == [[k, k] for k in (1, 2, 3, 5, 10)]
    assert len({recipe.text.replace(f"per_class: {k[0]}", "") for recipe, k in zip(recipes, numbers, strict=True)}) == 1


def test_sweeps_go_by_the_radius_of_the_recipe() -> None:
    paper = read_budget("paper")
    assert eps_sweep(paper)[0].attacks == ("clean", "pgd10", "pgd10@0.075", "pgd10@0.15", "pgd10@0.225", "pgd10@0.45")
    assert steps_sweep(paper)[1].attacks[-1] == "pgd100"
    assert [task.job.recipe.regularizer is None for task in plain(paper, "pgd", "ours")] == [True, False]
    assert plain(read_budget("smoke"), "ours")[0].images == 100
