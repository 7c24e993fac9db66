"""Budgets: every recipe resolves under each of them, and a file that is no budget is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from protoat.data import Digits
from protoat.models import LeNet
from protoat.paper.budget import Budget, budget_names, read_budget
from protoat.paper.job import Job
from protoat.paper.rows import (
    CIFAR10,
    CIFAR10_2,
    CIFAR100,
    CIFAR100_10,
    FAST,
    FREE,
    MNIST,
    MNIST_2,
    OURS,
    OURS_FAST,
    OURS_FREE,
    PGD,
    TINY_IMAGENET,
    Data,
)
from protoat.recipes.overrides import overlay
from protoat.recipes.reading import read_recipe
from protoat.recipes.shipped import recipe_names
from protoat.runs.build import build
from protoat.training import Cyclic, StepDecay

Row = tuple[tuple[str, ...], dict[str, Any]]  # recipes laid over that of the data, and what is changed

ROWS: dict[str, Row] = {
    "ours": ((), {}),
    "single": ((), {"regularizer": {"init_args": {"prototypes_per_class": 1}}}),
    "standard": (("standard",), {}),
    "fast": (("fast",), {}),
    "free": (("free",), {}),
    "trades": ((), {"regularizer": None, "method": {"class_path": "TRADES"}}),
    "cyclic": (
        (),
        {
            "method": {"class_path": "FastAT"},
            "optimizer": {"init_args": {"lr": 0.2}},
            "schedule": {"class_path": "Cyclic"},
            "epochs": 15,
        },
    ),
    "npair": (("npair",), {}),
}
PRETRAINS = [name for name in recipe_names() if name.endswith(("acl", "rocl"))]


def recipe_under(budget: str, name: str, row: Row = ROWS["ours"]) -> Job:
    layers, changes = row
    short = read_budget(budget).overrides(name, pretrains=name in PRETRAINS)
    return Job("x", (name, *layers), overlay(changes, short))


@pytest.mark.parametrize("name", recipe_names())
@pytest.mark.parametrize("budget", budget_names())
def test_every_recipe_resolves(budget: str, name: str) -> None:
    for row in [ROWS["ours"]] if name in PRETRAINS else [ROWS["ours"], ROWS["free"]]:
        recipe = recipe_under(budget, name, row).recipe
        milestones = recipe.schedule.milestones if isinstance(recipe.schedule, StepDecay) else [0]
        assert max(milestones) < recipe.epochs


@pytest.mark.parametrize("name", recipe_names())
def test_smoke_is_small_and_needs_no_download(name: str) -> None:
    recipe = recipe_under("smoke", name).recipe
    assert isinstance(recipe.data, Digits)
    assert recipe.epochs <= 2
    parts = build(recipe)
    assert parts.train.num_classes == (2 if name.endswith(("-2", "-lt")) else 10)
    assert any(isinstance(part, LeNet) for part in parts.model.modules())


@pytest.mark.parametrize("name", recipe_names())
def test_the_paper_changes_nothing(name: str) -> None:
    assert recipe_under("paper", name).recipe.text == read_recipe(name).text


def test_rows_stay_different_at_smoke() -> None:
    assert len({recipe_under("smoke", "cifar10", row).identity for row in ROWS.values()}) == len(ROWS)


DATA = [MNIST, MNIST_2, CIFAR10, CIFAR10_2, CIFAR100, CIFAR100_10, TINY_IMAGENET]


@pytest.mark.parametrize("data", DATA)
def test_ours_is_soft_triple_as_in_the_paper(data: Data) -> None:
    recipe = OURS.job(data, read_budget("paper"), seed=0).recipe
    assert recipe.regularizer is not None
    metric = recipe.regularizer(2, 4)
    assert (metric.projection, metric.gamma, metric.tau, metric.drop_below) == (None, 0.1, 0.2, None)


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("budget", budget_names())
def test_fast_and_free_keep_their_schedule(budget: str, data: Data) -> None:
    chosen = read_budget(budget)
    usual = PGD.job(data, chosen, seed=0).recipe
    for row in (FAST, OURS_FREE) if data in (MNIST, CIFAR100) else (FREE, OURS_FAST):
        recipe = row.job(data, chosen, seed=0).recipe
        assert isinstance(recipe.schedule, Cyclic)
        assert (recipe.schedule.lr_min, recipe.schedule.peak) == (0.001, 0.5)
        assert recipe.optimizer([torch.nn.Parameter(torch.zeros(1))]).defaults["lr"] == 0.2
        assert recipe.epochs == (15 if chosen.reproduction else usual.epochs)
    assert isinstance(usual.schedule, Cyclic) == (budget == "cpu" and "mnist" not in data.name)


@pytest.mark.parametrize(
    ("data", "radii", "paper"),
    [(MNIST, 1.25, 0.375), (MNIST_2, 1.25, 0.375), (CIFAR10, 1, 8 / 255), (TINY_IMAGENET, 0.5, 4 / 255)],
)
def test_fast_steps_as_far_in_the_ball_at_every_budget(data: Data, radii: float, paper: float) -> None:
    for name in budget_names():
        recipe = FAST.job(data, read_budget(name), seed=0).recipe
        assert recipe.method(recipe.threat).attack.step_size == pytest.approx(radii * recipe.threat.eps)
    own = Budget("own", "", train={"threat": {"eps": 0.02}})
    assert FAST.job(data, own, seed=0).recipe.threat.eps == 0.02
    assert f"step_size: {0.02 * radii:g}\n" in FAST.job(data, own, seed=0).recipe.text
    step = {0.375: "0.375", 8 / 255: "8/255", 4 / 255: "4/255"}[paper]
    assert f"step_size: {step}\n" in FAST.job(data, read_budget("paper"), seed=0).recipe.text


def test_what_a_budget_says_of_one_recipe_stands_beside_what_it_says_of_all() -> None:
    width = {"model": {"init_args": {"width": 0.25}}}
    budget = Budget(
        "mine",
        "",
        train={"model": {"class_path": "ResNet18", "init_args": {"width": 0.5, "mean": None}}, "threat": {"eps": 0.1}},
        recipes={
            "cifar10": {**width, "threat": {"norm": "l2"}},
            "cifar100": {"model": {"class_path": "LeNet", "init_args": {"std": None}}},
        },
    )
    assert budget.overrides("cifar10") == {
        "model": {"class_path": "ResNet18", "init_args": {"width": 0.25, "mean": None}},
        "threat": {"eps": 0.1, "norm": "l2"},
    }
    other = {"class_path": "LeNet", "init_args": {"std": None}}
    assert budget.overrides("cifar100") == {"model": other, "threat": {"eps": 0.1}}
    assert budget.overrides("cifar100", keep=["model"]) == {"threat": {"eps": 0.1}}


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    content: dict[str, Any] = {
        "about": "mine",
        "images": 7,
        "train": {"epochs": 3, "schedule": None, "method": {"init_args": {"steps": 2}}},
        "recipes": {"cifar10": {"epochs": 4, "model": {"class_path": "ResNet18", "init_args": {"width": 0.5}}}},
    }
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    budget = read_budget(str(path))
    assert (budget.name, budget.about, budget.images, budget.reproduction) == ("mine", "mine", 7, False)
    assert budget.overrides("cifar100") == content["train"]
    model = {"class_path": "ResNet18", "init_args": {"width": 0.5}}
    assert budget.overrides("cifar10") == {**content["train"], "epochs": 4, "model": model}
    assert budget.overrides("cifar10-acl", pretrains=True) == {}


def test_a_file_called_paper_is_no_reproduction(tmp_path: Path) -> None:
    (tmp_path / "paper.yaml").write_text("about: not the paper's")
    assert not read_budget(str(tmp_path / "paper.yaml")).reproduction
    assert [name for name in budget_names() if read_budget(name).reproduction] == ["paper"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {epochs: 1}", "is no budget; write about"),
        ("[1, 2]", "is no budget"),
        ("about: [", "is no YAML: line "),
        ("{about: x, train: {epocs: 1}}", r"mine\.yaml, train: 'epocs' is unknown; did you mean 'epochs'"),
        ("{about: x, train: {epochs: few}}", r"mine\.yaml, train: epochs=few is not valid"),
        ("{about: x, pretrain: {epocs: 1}}", r"mine\.yaml, pretrain: 'epocs' is unknown"),
        (
            "{about: x, recipes: {cifar: {epochs: 1}}}",
            r"mine\.yaml, recipes: 'cifar' is unknown; did you mean 'cifar10'",
        ),
        ("{about: x, recipes: {mnist: {epocs: 1}}}", r"mine\.yaml, recipes, mnist: 'epocs' is unknown"),
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
