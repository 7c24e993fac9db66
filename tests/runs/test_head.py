"""A run whose network has several prototypes per class in its head."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from protoat.models import MultiPrototypeHead
from protoat.recipes.fingerprint import fingerprint, settings
from protoat.recipes.reading import read_recipe
from protoat.runs.build import build
from protoat.runs.run import Run
from protoat.runs.train import train

FEW = ["--epochs", "1", "--batch_size", "433", "--method.steps", "1", "--schedule", "none", "--regularizer", "none"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    recipe = read_recipe("digits-2", [*FEW, "--head.prototypes_per_class", "[3, 5]", "--head.scale", "0.5"])
    train(recipe, out, progress=False)
    return out


def test_a_stored_run_is_rebuilt_with_its_head(run: Path) -> None:
    head, stored = Run(run).model.head, load_file(run / "best.safetensors")
    assert isinstance(head, MultiPrototypeHead)
    assert (head.prototypes_per_class, head.scale, head.similarity) == ([3, 5], 0.5, "dot")
    for name, value in head.state_dict().items():
        assert torch.equal(value, stored[f"model.head.{name}"]), name
    assert Run(run).model(torch.rand(2, 1, 8, 8)).logits.shape == (2, 2)


def test_another_run_starts_from_it(run: Path) -> None:
    options = [*FEW, "--head.prototypes_per_class", "[3, 5]", "--initialise.run", str(run)]
    with pytest.raises(ValueError, match=r"no gradient tells the prototypes of a class apart; write initialise\.head="):
        build(read_recipe("digits-2", options))
    model = build(read_recipe("digits-2", [*options, "--initialise.head", "loaded"])).model
    assert torch.equal(model.head.prototypes, Run(run).model.head.prototypes)
    one = ["--head.prototypes_per_class", "1"]
    assert not any(p.any() for p in build(read_recipe("digits-2", [*options, *one])).model.head.parameters())


def test_counts_of_classes_that_agree_are_one_number_and_no_head_is_no_setting() -> None:
    def of(*options: str) -> str:
        return fingerprint(yaml.safe_load(read_recipe("digits-2", options).text))

    assert of("--head.prototypes_per_class", "[4, 4]") == of("--head.prototypes_per_class", "4") != of()
    assert "head" not in settings(yaml.safe_load(read_recipe("digits-2").text))
