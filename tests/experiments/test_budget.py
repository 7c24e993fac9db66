"""Budgets: every recipe resolves under each of them, and a file that is no budget is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from protoat.data import Digits
from protoat.experiments.budget import budget_names, read_budget
from protoat.experiments.job import Job
from protoat.experiments.recipe import read_recipe, recipe_names
from protoat.experiments.run import build
from protoat.models import LeNet
from protoat.training import StepDecay

ROWS: dict[str, Sequence[str]] = {
    "ours": [],
    "single": ["--regularizer.prototypes_per_class", "1"],
    "standard": ["--config", "standard"],
    "fast": ["--config", "fast"],
    "free": ["--config", "free"],
    "trades": ["--regularizer", "none", "--method", "TRADES"],
    "cyclic": ["--method", "FastAT", "--optimizer.lr", "0.2", "--schedule", "Cyclic", "--epochs", "15"],
    "npair": ["--config", "npair"],
}
PRETRAINS = [name for name in recipe_names() if name.endswith(("acl", "rocl"))]


def recipe_under(budget: str, name: str, row: Sequence[str] = ()) -> Job:
    changes = read_budget(budget).args(name, pretrains=name in PRETRAINS)
    return Job("x", ("--config", name, *row, *changes))


@pytest.mark.parametrize("name", recipe_names())
@pytest.mark.parametrize("budget", budget_names())
def test_every_recipe_resolves(budget: str, name: str) -> None:
    for row in [()] if name in PRETRAINS else [ROWS["ours"], ROWS["free"]]:
        recipe = recipe_under(budget, name, row).recipe
        milestones = recipe.schedule.milestones if isinstance(recipe.schedule, StepDecay) else [0]
        assert max(milestones) < recipe.epochs


@pytest.mark.parametrize("name", recipe_names())
def test_smoke_is_small_and_needs_no_download(name: str) -> None:
    recipe = recipe_under("smoke", name).recipe
    assert isinstance(recipe.data, Digits)
    assert recipe.epochs <= 2
    parts = build(recipe)
    assert parts.train.num_classes == {"cifar10-2": 2, "mnist-2": 2, "digits-2": 2}.get(name, 10)
    network = parts.model if name in PRETRAINS else None
    assert network is not None or isinstance(parts.model, LeNet)


@pytest.mark.parametrize("name", recipe_names())
def test_the_paper_changes_nothing(name: str) -> None:
    assert recipe_under("paper", name).recipe.text == read_recipe(name).text


def test_rows_stay_different_at_smoke() -> None:
    assert len({recipe_under("smoke", "cifar10", row).identity for row in ROWS.values()}) == len(ROWS)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    content = {
        "about": "mine",
        "images": 7,
        "train": {"epochs": 3, "schedule": None, "method": {"init_args": {"steps": 2}}},
        "recipes": {"cifar10": {"epochs": 4, "model": {"class_path": "ResNet18", "init_args": {"width": 0.5}}}},
    }
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    budget = read_budget(str(path))
    assert (budget.name, budget.about, budget.images, budget.reproduction) == ("mine", "mine", 7, False)
    assert budget.args("cifar100") == ("--epochs", "3", "--schedule", "none", "--method.steps", "2")
    assert budget.args("cifar10")[:2] == ("--epochs", "4")
    assert budget.args("cifar10")[-4:] == ("--model", "ResNet18", "--model.width", "0.5")
    assert budget.args("cifar10-acl", pretrains=True) == ()


def test_a_file_called_paper_is_no_reproduction(tmp_path: Path) -> None:
    (tmp_path / "paper.yaml").write_text("about: not the paper's")
    assert not read_budget(str(tmp_path / "paper.yaml")).reproduction
    assert [name for name in budget_names() if read_budget(name).reproduction] == ["paper"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {epochs: 1}", "is no budget; write about"),
        ("[1, 2]", "is no budget"),
        ("about: [", "is no YAML"),
        ("{about: x, trian: {}}", "key 'trian' is unknown; did you mean 'train'"),
        ("{about: x, images: none}", "images=none is not valid"),
        ("{about: x, images: 0}", "images=0 is not valid"),
        ("{about: x, images: true}", "images=True is not valid"),
        ("{about: x, train: 3}", "train holds 3, expected keys and values"),
        ("{about: x, recipes: {cifar10: 3}}", "cifar10 holds 3, expected keys and values"),
    ],
)
def test_a_file_that_is_no_budget_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_budget(str(tmp_path / "mine.yaml"))


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="budget 'smok' is unknown; did you mean 'smoke'"):
        read_budget("smok")
