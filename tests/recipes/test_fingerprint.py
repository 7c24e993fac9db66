"""What makes two recipes the same run, also where they come from versions that know other fields."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from protoat.recipes import fingerprint as module
from protoat.recipes.fingerprint import Difference, differences, fingerprint, later_defaults, settings
from protoat.recipes.reading import read_recipe, recipe_from_text
from protoat.recipes.recipe import Recipe
from protoat.recipes.shipped import recipe_path
from protoat.runs.fingerprint import fingerprint_of_recipe


def content(*options: str, config: str = "digits-2") -> dict[str, Any]:
    return dict(yaml.safe_load(read_recipe(config, list(options)).text))


def test_differences_are_named_and_places_of_files_do_not_count() -> None:
    recipe = content()
    assert differences(recipe, recipe) == []
    assert differences(recipe, content("--seed", "1", "--method.steps", "3", "--data.root", "/elsewhere")) == [
        Difference("method.steps", 7, 3),
        Difference("seed", 0, 1),
    ]
    without = differences(recipe, content("--regularizer", "none"))
    assert Difference("regularizer.class_path", "protoat.regularizers.SoftTriple", None) in without
    assert all(each.key.startswith("regularizer.") for each in without)  # not weight, which is idle without one


def test_where_an_auxiliary_set_lies_is_no_difference() -> None:
    for inside in ("--method", "--method.method"):
        method = ["--method", "AWP"] * (inside != "--method") + [inside, "BiaMAT", f"{inside}.auxiliary", "CIFAR10"]
        roots = [content(*method, f"{inside}.auxiliary.root", root, config="cifar100") for root in ("/a", "/b")]
        assert differences(*roots) == []


@dataclass
class Later(Recipe):
    """A recipe of a later version."""

    later_number: float = 0.0
    later_word: str = "fp32"
    clean_classes: list[int] | None = None


def test_a_field_that_comes_later_changes_no_stored_run_at_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = content()
    assert later_defaults(Later) == {**later_defaults(Recipe), "later_number": 0.0, "later_word": "fp32"}
    monkeypatch.setattr(module, "_LATER", later_defaults(Later))
    later = {**stored, "later_number": 0.0, "later_word": "fp32", "clean_classes": None}
    assert fingerprint(later) == fingerprint(stored)
    assert settings(later) == settings(stored)
    assert differences(later, stored) == differences(stored, later) == []
    smoothed = {**later, "later_number": 0.1}
    assert fingerprint(smoothed) != fingerprint(stored)
    assert differences(smoothed, stored) == [Difference("later_number", 0.1, None)]


@pytest.mark.parametrize("metric", ["SoftTriple", "ProxyNCA", "ProxyAnchor"])
def test_a_stored_recipe_without_a_projection_had_none(metric: str) -> None:
    of_paper = content("--regularizer", metric, "--regularizer.projection", "none")
    stored = yaml.safe_load(yaml.safe_dump(of_paper))
    del stored["regularizer"]["init_args"]["projection"]
    assert fingerprint(stored) == fingerprint(of_paper) == fingerprint_of_recipe(stored)
    assert recipe_from_text(yaml.safe_dump(stored)).text == yaml.safe_dump(of_paper, sort_keys=False, width=120)
    now = content("--regularizer", metric)
    assert now["regularizer"]["init_args"]["projection"] == "batchnorm"
    assert differences(now, stored) == [Difference("regularizer.projection", "batchnorm", None)]


@pytest.mark.parametrize(
    "options", [["--method", "NFGSM"], ["--method", "AWP", "--method.method", "NFGSM"]], ids=["alone", "in AWP"]
)
def test_a_stored_run_of_n_fgsm_clipped_its_noise(options: list[str]) -> None:
    now = content(*options)
    stored = yaml.safe_load(yaml.safe_dump(now))
    inner = stored["method"]["init_args"]
    del inner.get("method", {"init_args": inner})["init_args"]["clip_noise"]
    assert fingerprint(now) == fingerprint(stored) == fingerprint_of_recipe(stored)
    assert differences(now, stored) == []
    unclipped = content(*options, f"{options[-2]}.clip_noise", "false")
    assert [each.theirs for each in differences(stored, unclipped)] == [False]


def test_a_recipe_that_a_user_writes_has_the_projection_of_the_class(tmp_path: Path) -> None:
    written = yaml.safe_load(recipe_path("digits-2").read_text())
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(written))
    assert "batchnorm" in read_recipe(path).text
    stored = content()
    del stored["regularizer"]["init_args"]["projection"]
    path.write_text(yaml.safe_dump(stored))
    assert "batchnorm" not in read_recipe(path).text  # `--config runs/old/recipe.yaml` repeats that run


def test_no_field_of_the_first_recipes_is_left_out_at_its_default() -> None:
    recipe = {"batch_size": 128, "seed": 0, "compile": False, "norm_weight": 0.0, "precision": "fp32"}
    assert settings(recipe) == recipe
