"""Recipes: what overrides, what is kept, and what makes two of them the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from protoat.data import Augment, Digits, ImageFolder, regroup
from protoat.methods import PGDAT, FastAT, FreeAT
from protoat.recipes.reading import read_recipe, recipe_from_text, recipe_parser, resolve
from protoat.regularizers import SoftTriple
from protoat.threats import Linf


@pytest.mark.parametrize("model", [["--model", "protoat.models:LeNet"], ["--model=protoat.models:LeNet"]])
def test_a_model_is_written_with_a_colon_as_well(model: list[str]) -> None:
    spellings = (model, ["--model", "LeNet"])
    texts = [resolve(recipe_parser(), ["--config", "digits", *spelt])[0].text for spelt in spellings]
    assert texts[0] == texts[1]


def test_another_method_takes_arguments_of_its_own() -> None:
    recipe = read_recipe("mnist-2", ["--method", "FreeAT", "--method.replays", "4", "--regularizer", "none"])
    method = recipe.method(recipe.threat)
    assert isinstance(method, FreeAT)
    assert (method.replays, method.threat, recipe.regularizer) == (4, Linf(0.3), None)


def test_a_weighting_goes_by_its_class_or_by_a_word(tmp_path: Path) -> None:
    chosen = ["--weighting.step", "0.5", "--select", "worst-mode"]
    first = read_recipe("digits-2", ["--weighting", "GroupDRO", *chosen])
    assert first.weighting is not None and repr(first.weighting) == "GroupDRO(step=0.5, adjustment=0.0)"
    texts = [
        read_recipe("digits-2", [*word, *chosen]).text
        for word in (["--weighting", "group-dro"], ["--weighting=group-dro"])
    ]
    (tmp_path / "own.yaml").write_text("weighting: group-dro\nselect: worst-mode\n")
    texts.append(read_recipe(["digits-2", tmp_path / "own.yaml"], ["--weighting.step", "0.5"]).text)
    texts.append(
        read_recipe("digits-2", {"weighting": "group-dro", "select": "worst-mode"}).text.replace(
            "step: 0.01", "step: 0.5"
        )
    )
    assert texts == [first.text] * 4 and recipe_from_text(first.text).text == first.text
    plain, cfol = read_recipe("digits-2"), read_recipe("digits-2", ["--weighting", "cfol"])
    assert repr(cfol.weighting) == "CFOL(step=5e-06, mixing=0.5)" and plain.weighting is None
    with pytest.raises(ValueError, match="weighting 'group-dr' is unknown; did you mean 'GroupDRO'"):
        read_recipe("digits-2", ["--weighting", "group-dr"])


def test_parts_with_arguments_wait_for_the_facts_of_the_run() -> None:
    recipe = read_recipe("digits-2", ["--method.steps", "3", "--regularizer.prototypes_per_class", "[2, 3]"])
    method = recipe.method(Linf("4/255"))
    assert isinstance(method, PGDAT)
    assert (method.attack.steps, method.threat.eps) == (3, 4 / 255)
    assert recipe.regularizer is not None
    metric = recipe.regularizer(2, 16)
    assert isinstance(metric, SoftTriple)
    assert metric.active.sum(1).tolist() == [2, 3]
    optimizer = recipe.optimizer([torch.nn.Parameter(torch.zeros(1))])
    assert isinstance(optimizer, torch.optim.SGD)


@pytest.mark.parametrize("method", [["--method", "FastAT"], ["--method=FastAT"]])
def test_another_class_starts_from_its_own_defaults(method: list[str]) -> None:
    recipe = read_recipe("cifar10", [*method, "--optimizer", "Adam"])
    method = recipe.method(recipe.threat)
    assert isinstance(method, FastAT)
    assert method.attack.step_size == pytest.approx(10 / 255)  # not the 2/255 of the recipe's PGDAT
    assert recipe.optimizer([torch.nn.Parameter(torch.zeros(1))]).defaults["lr"] == 1e-3


def test_what_all_methods_take_outlives_a_change_of_method() -> None:
    method = read_recipe("mnist-2", ["--method", "FreeAT"]).method(Linf(0.3))
    assert (method.ramp_epochs, method.replays) == (read_recipe("mnist-2").method(Linf(0.3)).ramp_epochs, 8)
    assert method.ramp_epochs > 0


def test_the_same_class_keeps_what_the_recipe_says() -> None:
    recipe = read_recipe("cifar10", ["--method", "PGDAT", "--method.steps", "10"])
    attack = recipe.method(recipe.threat).attack
    assert (attack.steps, attack.step_size) == (10, pytest.approx(2 / 255))


def test_any_data_source_can_take_the_place_of_another() -> None:
    recipe = read_recipe("cifar10-2", ["--data", "ImageFolder", "--data.path", "pictures", "--data.image_size", "32"])
    assert isinstance(recipe.data, ImageFolder)
    assert (recipe.data.path, recipe.data.image_size) == (Path("pictures"), 32)
    assert (recipe.groups, recipe.augment) == (2, Augment(padding=4, flip=True))


def test_groups_may_be_a_mapping() -> None:
    recipe = read_recipe("digits", ["--groups", "{even: ['0', '2'], odd: ['1', '3']}"])
    assert recipe.groups == {"even": ["0", "2"], "odd": ["1", "3"]}


def test_augmentation_left_out_is_that_of_the_data(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        "{data: {class_path: CIFAR10}, model: {class_path: ResNet18}, threat: {eps: 8/255}, "
        "method: {class_path: PGDAT}, optimizer: {class_path: SGD, init_args: {lr: 0.1}}, epochs: 1}"
    )
    recipe = read_recipe(path)
    assert recipe.augment == Augment(padding=4, flip=True)
    assert yaml.safe_load(recipe.text)["augment"] == {"padding": 4, "flip": True}
    assert read_recipe(path, ["--data", "Digits"]).augment == Digits.augment


def test_the_text_holds_everything_and_gives_the_recipe_back() -> None:
    recipe = read_recipe("cifar10-2", ["--method", "FreeAT", "--seed", "3"])
    content = yaml.safe_load(recipe.text)
    assert content["method"] == {
        "class_path": "protoat.methods.FreeAT",
        "init_args": {"replays": 8, "ramp_epochs": 0.0},
    }
    assert content["threat"] == {"eps": "8/255", "norm": "linf"}
    assert content["regularizer"]["init_args"]["scale"] == 20.0  # a default nobody wrote
    assert content["averaging"] is None
    again = recipe_from_text(recipe.text)
    assert again.text == recipe.text
    assert (again.seed, again.threat, again.epochs) == (3, recipe.threat, recipe.epochs)


def test_further_options_ride_along() -> None:
    parser = recipe_parser("protoat example")
    parser.add_argument("--out", type=Path)
    recipe, parsed = resolve(parser, ["--config", "digits-2", "--out", "runs/x"])
    assert parsed.out == Path("runs/x")
    assert "out" not in yaml.safe_load(recipe.text)


def test_help_names_what_a_command_takes() -> None:
    shown = " ".join(recipe_parser("protoat train", default="digits-2").format_help().split())
    assert "by default digits-2," in shown and "mnist-acl" not in shown and "(required" not in shown
    assert "mnist-acl" in recipe_parser("protoat pretrain", pretrains=True).format_help()


def test_groups_and_milestones_as_a_command_line_writes_them() -> None:
    recipe = read_recipe(
        "digits", ["--groups", "{even: [0,2,4,6,8], odd: [1,3,5,7,9]}", "--schedule.milestones", "[0.5, 0.75]"]
    )
    assert regroup(recipe.data.load("train"), recipe.groups).class_names == ("even", "odd")
    assert recipe.schedule is not None
    assert [recipe.schedule.lr(1.0, update, 100, 10) for update in (49, 50, 75)] == pytest.approx([1, 0.1, 0.01])


def test_what_was_read_of_a_file_before_changes_nothing(tmp_path: Path) -> None:
    """Files are parsed once; but who changes what they say, or the files, changes no other recipe."""
    path = tmp_path / "mine.yaml"
    path.write_text(whole := read_recipe("digits-2").text)
    by_options = read_recipe("digits-2", ["--seed", "0"])  # is parsed as a whole
    first = read_recipe(path)
    first.data.root = tmp_path
    groups = {"a": ["0"], "b": ["1"]}
    changed = read_recipe(path, {"epochs": 9, "groups": groups, "method": {"class_path": "FreeAT"}, "schedule": None})
    assert (changed.epochs, changed.groups, changed.schedule) == (9, groups, None)
    for again in (read_recipe(path), recipe_from_text(whole), read_recipe(path, {"epochs": by_options.epochs})):
        assert again.text == by_options.text == whole and again.data.root != tmp_path
    path.write_text(whole.replace("batch_size: ", "batch_size: 1"))
    assert read_recipe(path).batch_size == int(f"1{first.batch_size}")
