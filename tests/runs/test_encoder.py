"""From a pre-trained run into another: which weights arrive, what is recorded, what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from protoat.models import DualBatchNorm, LeNet
from protoat.recipes.reading import read_recipe
from protoat.runs.build import build
from protoat.runs.run import Run
from protoat.runs.train import train
from protoat.storage.manifest import write_record

FEW = ["--epochs", "1", "--batch_size", "433", "--method.steps", "1", "--schedule", "none"]


@pytest.fixture(scope="module")
def acl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("acl")
    train(read_recipe("digits-acl", FEW), out, progress=False)
    return out


def finetuned(acl: Path, *options: str) -> LeNet:
    model = build(read_recipe("digits", ["--initialise.run", str(acl), *options])).model
    assert isinstance(model, LeNet)
    return model


@pytest.mark.parametrize("branch", ["adv", "clean"])
def test_shared_weights_and_one_branch_arrive(branch: str, acl: Path) -> None:
    stored = load_file(acl / "last.safetensors")
    model = finetuned(acl, "--initialise.branch", branch)
    assert not any(isinstance(layer, DualBatchNorm) for layer in model.modules())
    for name, value in model.features.state_dict().items():
        layer, _, leaf = name.rpartition(".")
        dual = f"model.features.{layer}.{branch}.{leaf}"
        assert torch.equal(value, stored.get(dual, stored.get(f"model.features.{name}"))), name
    assert not torch.equal(stored["model.features.1.adv.running_var"], stored["model.features.1.clean.running_var"])
    assert not any(bool(value.any()) for value in model.head.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_attacked_images_choose_the_branch(acl: Path, tmp_path: Path) -> None:
    assert Run(acl).network().branch == "adv"
    train(read_recipe("digits-acl", [*FEW, "--method.mode", "S2S"]), tmp_path, progress=False)
    assert Run(tmp_path).network().branch == "clean"


def test_the_head_may_be_random_or_loaded(acl: Path) -> None:
    assert torch.equal(
        finetuned(acl, "--initialise.head", "random").head.weight, build(read_recipe("digits")).model.head.weight
    )
    loaded = finetuned(acl, "--initialise.head", "loaded").head.weight
    assert torch.equal(loaded, load_file(acl / "last.safetensors")["model.head.weight"])


def test_prototypes_are_those_of_a_run_from_random_weights(acl: Path) -> None:
    fresh = build(read_recipe("digits")).objective.regularizer
    taken = build(read_recipe("digits", ["--initialise.run", str(acl)])).objective.regularizer
    assert torch.equal(fresh.prototypes, taken.prototypes)


def test_only_what_learns_is_in_the_optimizer(acl: Path) -> None:
    parts = build(read_recipe("digits", ["--initialise.run", str(acl), "--initialise.finetune", "head"]))
    network, _ = parts.optimizer.param_groups
    assert [tuple(p.shape) for p in network["params"]] == [(10, 100), (10,)]


def test_a_run_records_what_it_began_with_and_resumes_with_nothing_else(acl: Path, tmp_path: Path) -> None:
    encoder, out = tmp_path / "encoder", tmp_path / "run"
    shutil.copytree(acl, encoder)
    options = ["--initialise.run", str(encoder), "--epochs", "1", "--method.steps", "1", "--schedule", "none"]
    recipe = read_recipe("digits", options)
    train(recipe, out, progress=False)
    facts = Run(out).facts["initialised"]
    assert (facts["branch"], facts["loaded"], facts["missing"], facts["unexpected"]) == ("adv", 14, [], [])
    assert facts["sha256"] == Run(out).choices["initialise"]["sha256"]
    train(recipe, out, progress=False)
    train(read_recipe("digits-acl", [*FEW, "--seed", "1"]), tmp_path / "other", progress=False)
    write_record(encoder / "last.safetensors", (tmp_path / "other/last.safetensors").read_bytes())
    with pytest.raises(ValueError, match=rf"holds another recipe \(initialise\.sha256 \w+, there {facts['sha256']}\)"):
        train(read_recipe("digits", options), out, progress=False)
    with pytest.raises(ValueError, match=r"last\.safetensors has changed: its SHA-256 is"):
        read_recipe(out / "recipe.yaml")


def test_a_finetuned_run_outlives_its_encoder(acl: Path, tmp_path: Path) -> None:
    encoder = tmp_path / "encoder"
    shutil.copytree(acl, encoder)
    options = ["--initialise.run", str(encoder), "--epochs", "1", "--method.steps", "1", "--schedule", "none"]
    train(read_recipe("digits", options), tmp_path / "run", progress=False)
    shutil.rmtree(encoder)
    run = Run(tmp_path / "run")
    assert run.model(torch.rand(2, 1, 8, 8)).logits.shape == (2, 10)
    assert run.weights().path.name == "best.safetensors"


def test_a_trained_run_may_be_the_start_of_another(tmp_path: Path) -> None:
    few = ["--epochs", "1", "--method.steps", "1", "--schedule", "none", "--regularizer", "none"]
    train(read_recipe("digits", few), tmp_path / "ten", progress=False)
    parts = build(read_recipe("digits-2", ["--initialise.run", str(tmp_path / "ten")]))
    assert parts.initialised is not None
    assert (parts.initialised["loaded"], parts.initialised["branch"]) == (14, None)
    parts = build(read_recipe("digits-2", ["--initialise.run", str(tmp_path / "ten"), "--initialise.head", "loaded"]))
    assert parts.initialised is not None
    assert len(parts.initialised["of_another_shape"]) == 2


def test_mistakes_are_named(acl: Path, tmp_path: Path) -> None:
    for options, message in (
        (["--initialise.head", "zero"], "write initialise.run or initialise.weights"),
        (["--initialise.run", str(acl), "--initialise.weights", "x.pt"], "takes weights from one place"),
        (["--initialise.run", str(tmp_path)], r"initialise\.run='.*': there is no finished run"),
        (["--initialise.weights", "x.pt"], r"initialise\.weights='x\.pt': there is no such file"),
        (["--initialise.run", str(acl), "--initialise.branch", "both"], "expected 'clean' or 'adv' or none"),
    ):
        with pytest.raises(ValueError, match=message):
            read_recipe("digits", options)
    with pytest.raises(ValueError, match="has one set of batch norm, so branch='adv' is not there"):
        train(read_recipe("digits", ["--epochs", "1", "--method.steps", "1", "--schedule", "none"]), tmp_path / "plain")
        build(read_recipe("digits", ["--initialise.run", str(tmp_path / "plain"), "--initialise.branch", "adv"]))
    with pytest.raises(ValueError, match="no tensor fits"):
        build(read_recipe("digits", ["--initialise.run", str(acl), "--model", "ResNet18", "--model.width", "0.1"]))
