"""Every shipped recipe builds, and holds published values: the paper's section 4.2, or those of the pre-trainers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from protoat.attacks import PGD
from protoat.data import Augment, ImageData, Source, TinyImageNet, regroup
from protoat.models import DualBatchNorm
from protoat.pretraining import ACL, RoCL
from protoat.recipes.reading import read_recipe
from protoat.recipes.shipped import recipe_names
from protoat.regularizers import SoftTriple
from protoat.runs.build import build
from protoat.threats import Linf
from protoat.training import LARS, WarmupCosine

PAPER = {
    # classes, prototypes, lambda_1, lambda_2, eps, lr, epochs, milestones, batch, embedding
    "mnist": (10, 5, 0.5, 0.005, 0.3, 0.01, 50, [25], 128, 100),
    "mnist-finetune": (10, 5, 0.5, 0.005, 0.3, 0.01, 5, [4], 128, 100),
    "mnist-2": (2, 5, 0.5, 0.005, 0.3, 0.01, 50, [25], 128, 100),
    "cifar10": (10, 10, 0.5, 0.001, 8 / 255, 0.1, 120, [30, 60, 90], 128, 512),
    "cifar10-2": (2, 10, 0.5, 0.001, 8 / 255, 0.1, 120, [30, 60, 90], 128, 512),
    "cifar100": (100, 10, 0.5, 0.001, 8 / 255, 0.1, 120, [30, 60, 90], 128, 512),
    "cifar100-10": (10, 10, 0.5, 0.001, 8 / 255, 0.1, 120, [30, 60, 90], 128, 512),
    "tiny-imagenet": (200, 20, 0.1, 0.001, 8 / 255, 0.1, 120, [30, 60, 90], 32, 2048),
    "tiny-imagenet-2": (2, 20, 0.1, 0.001, 8 / 255, 0.1, 120, [30, 60, 90], 32, 2048),
}
# Published values: method, radius, steps, step size, learning rate, weight decay, epochs, images of a batch.
PRETRAINING = {
    "cifar10-acl": (ACL, 8 / 255, 5, 2 / 255, 5.0, 1e-6, 1000, 512),
    "cifar10-rocl": (RoCL, 0.0314, 7, 0.007, 1.5, 1e-6, 1000, 512),
    "mnist-acl": (ACL, 0.3, 5, None, 1e-3, 0.0, 10, 512),
    "mnist-rocl": (RoCL, 0.3, 7, None, 1e-3, 0.0, 10, 512),
    "digits-acl": (ACL, 0.1, 5, None, 1e-3, 0.0, 40, 128),
}
SETS = {"MNIST": (10, 1, 28), "CIFAR10": (10, 3, 32), "CIFAR100": (100, 3, 32), "TinyImageNet": (200, 3, 64)}
SETS |= {"Digits": (10, 1, 8)}


@pytest.fixture
def blank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every set that would have to be there holds black images of its own shape and classes."""
    groups = read_recipe("tiny-imagenet-2").groups
    assert isinstance(groups, Mapping)
    in_groups = [name for modes in groups.values() for names in modes.values() for name in names]

    def load(self: Source, split: str) -> ImageData:
        classes, channels, size = SETS[self.name]
        labels = torch.arange(classes).repeat(6000 // classes)
        images = torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(len(labels), channels, size, size)
        names = [*in_groups, *map(str, range(classes - len(in_groups)))] if classes == 200 else range(classes)
        return ImageData(images, labels, tuple(map(str, names)))

    monkeypatch.setattr(Source, "load", load)


def test_every_recipe_is_covered() -> None:
    assert set(recipe_names()) == {*PAPER, *PRETRAINING, "digits", "digits-2", "digits-lt"}


@pytest.mark.usefixtures("blank")
@pytest.mark.parametrize("name", PAPER)
def test_recipe_builds_with_the_papers_values(name: str) -> None:
    classes, prototypes, weight, norm_weight, eps, lr, epochs, milestones, batch, embedding = PAPER[name]
    recipe = read_recipe(name)
    parts = build(recipe)
    objective = parts.objective
    metric, attack = objective.regularizer, objective.method.attack
    assert isinstance(metric, SoftTriple)
    assert isinstance(attack, PGD)
    assert metric.prototypes.shape == (classes, prototypes, embedding)
    assert (metric.gamma, metric.tau) == (0.1 if metric.project.kind is None else 0.3, 0.2)
    assert (objective.weight, objective.norm_weight) == (weight, norm_weight)
    assert (recipe.threat, attack.steps) == (Linf(eps), 7)
    assert (recipe.epochs, recipe.batch_size, recipe.schedule.milestones) == (epochs, batch, milestones)
    network, centres = parts.optimizer.param_groups
    assert (network["lr"], network["momentum"], network["weight_decay"]) == (lr, 0.9, 5e-4)
    assert (centres["lr"], centres["weight_decay"]) == (lr, 0.0)
    assert parts.train.num_classes == classes


def test_tiny_imagenet_is_measured_at_half_the_radius() -> None:
    assert read_recipe("tiny-imagenet").evaluation_threat == Linf("4/255")
    assert read_recipe("cifar10").evaluation_threat is None


@pytest.mark.skipif(not TinyImageNet().available(), reason="needs Tiny ImageNet in PROTOAT_DATA")
def test_tiny_imagenet_in_two_classes_has_ten_modes() -> None:
    recipe = read_recipe("tiny-imagenet-2")
    assert recipe.groups is not None
    test = regroup(TinyImageNet().load("test"), recipe.groups)
    assert test.class_names == ("animals", "things")
    sizes = dict(zip(test.mode_names, torch.bincount(test.modes).tolist(), strict=True))
    assert sizes["animals/birds"] == 4 * 50 and sizes["things/vehicles"] == 16 * 50
    assert len(sizes) == 10 and sum(sizes.values()) == 193 * 50


def test_cifar_steps_are_the_papers() -> None:
    for name in ("cifar10", "cifar10-2", "cifar100", "cifar100-10", "tiny-imagenet", "tiny-imagenet-2"):
        recipe = read_recipe(name)
        assert recipe.method(recipe.threat).attack.step_size == pytest.approx(2 / 255)


@pytest.mark.parametrize(("name", "images"), [("digits", 1297), ("digits-2", 1297), ("digits-lt", 502)])
def test_digits_build_without_any_download(
    name: str, images: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROTOAT_DATA", str(tmp_path))
    parts = build(read_recipe(name))
    assert parts.validation is not None
    assert len(parts.train) + len(parts.validation) == images


def test_the_rarest_digits_of_both_classes_have_a_16th_of_the_most_frequent() -> None:
    parts = build(read_recipe("digits-lt"))
    assert parts.validation is not None
    counts = (parts.train.modes.bincount() + parts.validation.modes.bincount()).tolist()
    assert counts[8:] == [8, 8] and 16 * 8 == counts[0] <= counts[1] and parts.train.class_names == ("even", "odd")


@pytest.mark.usefixtures("blank")
@pytest.mark.parametrize("name", PRETRAINING)
def test_recipe_builds_with_the_pretrainers_values(name: str) -> None:
    kind, eps, steps, step_size, lr, weight_decay, epochs, batch = PRETRAINING[name]
    recipe = read_recipe(name)
    assert recipe.pretrains
    parts = build(recipe)
    method = parts.objective.method
    assert isinstance(method, kind)
    assert (method.threat, method.steps, method.step_size) == (Linf(eps), steps, step_size)
    assert (method.temperature, recipe.augment) == (0.5, Augment())
    (network,) = parts.optimizer.param_groups
    assert (network["lr"], network["weight_decay"]) == (lr, weight_decay)
    assert (recipe.epochs, recipe.batch_size) == (epochs, batch)
    assert isinstance(recipe.schedule, WarmupCosine)
    assert (parts.objective.regularizer, parts.validation) == (None, None)
    assert any(isinstance(layer, DualBatchNorm) for layer in parts.model.modules()) == (kind is ACL)


@pytest.mark.parametrize("name", ["cifar10-acl", "cifar10-rocl"])
def test_pretraining_on_cifar_follows_the_papers(name: str) -> None:
    recipe = read_recipe(name)
    optimizer = recipe.optimizer([torch.nn.Parameter(torch.zeros(1))])
    assert isinstance(optimizer, LARS)
    assert (optimizer.defaults["momentum"], optimizer.trust) == (0.9, 0.001)
    view = recipe.method(recipe.threat).view
    assert (view.flip, view.jitter, view.grey, view.rotation) == (True, 0.5, 0.2, 0.0)
    assert view.crop_scale == ((0.1, 1.0) if name == "cifar10-acl" else (0.08, 1.0))
    lrs = [recipe.schedule.lr(optimizer.defaults["lr"], 97 * epoch, 97 * 1000, 97) for epoch in (0, 5, 10, 999)]
    assert lrs[0] < lrs[1] < lrs[2] == pytest.approx(optimizer.defaults["lr"], rel=1e-3)
    assert lrs[3] < 1e-4
