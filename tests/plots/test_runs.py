"""The runs that figures ask for."""

from __future__ import annotations

import pytest

from protoat.paper import rows as setups
from protoat.paper.budget import read_budget
from protoat.paper.figures.catalogue import FIGURES, View
from protoat.paper.figures.runs import eps_sweep, plain, prototype_sweep, retrieval_runs, steps_sweep
from protoat.recipes.fingerprint import differences
from protoat.storage.parsing import parse_yaml


def test_figure_4_is_of_four_methods_on_one_data_set() -> None:
    tasks = retrieval_runs(read_budget("paper"))
    recipes = [task.job.recipe for task in tasks]
    assert [recipe.groups for recipe in recipes] == [2] * 4
    kinds = [None if r.regularizer is None else type(r.regularizer(2, 8)).__name__ for r in recipes]
    assert kinds == [None, "TLA", None, "SoftTriple"]
    starts = [task.job.start for task in tasks]
    assert [start is not None and type(start.recipe.method(start.recipe.threat)).__name__ for start in starts] == [
        False,
        False,
        "RoCL",
        False,
    ]


def test_figure_3_varies_the_prototypes_only() -> None:
    recipes = [task.job.recipe for task in prototype_sweep(read_budget("paper"))]
    numbers = [recipe.regularizer(2, 8).active.sum(1).tolist() for recipe in recipes if recipe.regularizer]
    assert numbers == [[k, k] for k in (1, 2, 3, 5, 10)]
    for recipe in recipes[1:]:
        (difference,) = differences(*map(parse_yaml, (recipes[0].text, recipe.text)))
        assert difference.key == "regularizer.prototypes_per_class"


def test_figure_3_is_measured_under_the_attack_that_it_shows() -> None:
    smoke = read_budget("smoke")
    assert {task.attacks for task in prototype_sweep(smoke)} == {("clean", "pgd10")}
    assert {task.attacks for task in prototype_sweep(smoke, "aa")} == {("clean", "aa")}
    with pytest.raises(ValueError, match="attack 'pdg10' is unknown; did you mean 'pgd10'"):
        prototype_sweep(smoke, "pdg10")
    with pytest.raises(ValueError, match="attack 'clean' is none; name one"):
        FIGURES["3"].needed(smoke, View(attack="clean"))


def test_sweeps_go_by_the_radius_of_the_recipe() -> None:
    paper = read_budget("paper")
    assert eps_sweep(paper)[0].attacks == ("clean", "pgd10", "pgd10@0.075", "pgd10@0.15", "pgd10@0.225", "pgd10@0.45")
    assert steps_sweep(paper)[1].attacks[-1] == "pgd100"
    assert [task.job.recipe.regularizer is None for task in plain(paper, setups.PGD, setups.OURS)] == [True, False]
    assert plain(read_budget("smoke"), setups.OURS)[0].images == 100
