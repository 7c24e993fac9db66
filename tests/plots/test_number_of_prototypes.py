"""Figure 3 holds the counts of the records, in the order of the number of prototypes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from protoat.evaluation.record import Evaluation
from protoat.paper.figures.number_of_prototypes import PAPER, accuracy_against_prototypes
from tests.whole import edit, with_correct

from .reading import lines, ticks


def with_number(run: Path, to: Path, number: str, correct: int) -> Path:
    """A copy of a run that says it began with another number of prototypes, with another outcome."""
    shutil.copytree(run, to)
    text = (to / "recipe.yaml").read_text()
    edit(to / "recipe.yaml", re.sub(r"prototypes_per_class: \d+", f"prototypes_per_class: {number}", text))
    record = json.loads((to / "evaluation.json").read_text())
    record["attacks"] = {name: with_correct(entry, correct) for name, entry in record["attacks"].items()}
    record["worst_case"] = with_correct(record["worst_case"], correct)
    edit(to / "evaluation.json", json.dumps(record))
    return to


def test_points_are_in_the_order_of_the_number_with_a_verdict(ours: Path, tmp_path: Path) -> None:
    made = [("10", 90), ("1", 50), ("[3, 4]", 88)]
    runs = [with_number(ours, tmp_path / f"k{place}", *each) for place, each in enumerate(made)]
    plot = accuracy_against_prototypes(runs)
    assert ticks(plot, "x") == ["1", "3/4", "10"]
    assert {name: y for name, (_, y) in lines(plot).items()} == {"clean": [50, 88, 90], "pgd10": [50, 88, 90]}
    assert "pgd10: highest at 10, no difference shown from 3/4" in plot.about
    assert any("1: 3 and 3" in line for line in plot.about)  # what the copied log says is left at the end
    assert plot.about[-1] == PAPER
    assert not any("also differ" in line for line in plot.about)


def test_runs_that_cannot_stand_in_it_are_refused(ours: Path, plain: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no prototypes"):
        accuracy_against_prototypes([ours, plain])
    with pytest.raises(ValueError, match="is not measured under pgd7; do so: protoat evaluate"):
        accuracy_against_prototypes([ours], attack="pgd7")
    with pytest.raises(ValueError, match="same number of prototypes"):
        accuracy_against_prototypes([ours, with_number(ours, tmp_path / "same", "3", 1)])


def test_autoattack_is_found_under_its_version(ours: Path) -> None:
    record = json.loads((ours / "evaluation.json").read_text())
    record["attacks"]["aa-k2"] = record["attacks"]["pgd10"] | {"correct": 50, "parameters": {"attack": "AutoAttack"}}
    plot = accuracy_against_prototypes([ours], attack="aa", records={ours: Evaluation.from_json(record)})
    assert lines(plot)["aa"][1] == [50]


def test_another_difference_between_recipes_is_said(ours: Path, tmp_path: Path) -> None:
    other = with_number(ours, tmp_path / "other", "5", 60)
    text = (other / "recipe.yaml").read_text()
    edit(other / "recipe.yaml", text.replace("epochs: 2\n", "epochs: 9\n"))
    assert "The recipes also differ in epochs." in accuracy_against_prototypes([ours, other]).about
