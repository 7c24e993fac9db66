"""From a recipe to objects, to a run folder, and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from protoat.data import ImageData
from protoat.recipes.reading import read_recipe
from protoat.regularizers import SoftTriple
from protoat.runs.build import build
from protoat.runs.images import load_images
from protoat.runs.run import Run
from protoat.runs.store import claim
from protoat.runs.train import train
from tests.whole import edit

SHORT = ["--epochs", "2", "--validation_size", "50", "--method.steps", "1", "--schedule", "none", "--batch_size", "256"]


def test_weights_depend_on_the_seed_and_on_nothing_else() -> None:
    def weights(seed: str) -> list[torch.Tensor]:
        torch.rand(7)
        parts = build(read_recipe("digits-2", ["--seed", seed]))
        return [*parts.model.parameters(), *parts.objective.parameters()]

    state = torch.get_rng_state()
    first, again, other = weights("0"), weights("0"), weights("1")
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[-1], other[-1])
    torch.set_rng_state(state)
    build(read_recipe("digits-2"))
    assert torch.equal(torch.get_rng_state(), state)


def test_prototypes_have_their_own_rate_and_no_decay() -> None:
    parts = build(read_recipe("digits-2", ["--optimizer.lr", "0.02", "--prototype_lr_factor", "5"]))
    network, prototypes = parts.optimizer.param_groups
    assert (network["lr"], network["weight_decay"]) == (0.02, 5e-4)
    assert (prototypes["lr"], prototypes["weight_decay"]) == (pytest.approx(0.1), 0.0)
    assert isinstance(parts.objective.regularizer, SoftTriple)
    assert parts.objective.regularizer.prototypes.shape == (2, 10, 100)


def test_without_a_regularizer_its_terms_are_absent() -> None:
    objective = build(read_recipe("digits-2", ["--regularizer", "none"])).objective
    assert (objective.regularizer, objective.norm_weight) == (None, 0.0)


@pytest.mark.parametrize(
    ("precision", "said"), [("fp32", "in eval mode; "), ("bf16", "in eval mode, passes in bf16; ")]
)
def test_the_log_says_what_attacks_pass_in(
    precision: str, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    recipe = read_recipe("digits-2", [*SHORT, "--epochs", "1", "--attack_precision", precision])
    assert train(recipe, tmp_path / "run", progress=False).updates
    assert f"batch norm {said}" in caplog.text


@pytest.mark.parametrize("regularizer", [[], ["--regularizer", "none"]])
def test_labels_are_smoothed_as_the_recipe_says(regularizer: list[str]) -> None:
    told = build(read_recipe("digits-2", ["--label_smoothing", "0.3", *regularizer])).objective
    assert told.label_smoothing == 0.3
    assert build(read_recipe("digits-2", regularizer)).objective.label_smoothing == 0.0


def test_groups_and_held_out_images() -> None:
    recipe = read_recipe("digits-2")
    parts = build(recipe)
    assert parts.validation is not None
    assert (len(parts.train), len(parts.validation)) == (1097, 200)
    assert parts.train.class_names == load_images(recipe, "test").class_names == ("0-4", "5-9")
    assert len(parts.train.mode_names) == 10


def test_oblong_images_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = read_recipe("digits", ["--validation_size", "0"])
    oblong = ImageData(torch.zeros(4, 1, 8, 10, dtype=torch.uint8), torch.arange(4) % 2, ("a", "b"))
    monkeypatch.setattr(type(recipe.data), "load", lambda self, split: oblong)
    with pytest.raises(ValueError, match="images are 8x10"):
        build(recipe)


def test_a_run_is_stored_and_read_back(tmp_path: Path) -> None:
    recipe = read_recipe("digits-2", SHORT)
    result = train(recipe, tmp_path / "run", progress=False)
    assert result.epochs == 2
    stored = Run(tmp_path / "run")
    assert stored.complete
    assert stored.choices["epochs"] == 2
    assert stored.facts["shape"] == [1, 8, 8]
    assert stored.facts["sessions"][0]["device"] == "cpu"
    assert [line.prototype_counts for line in stored.metrics] == [[10, 10], [10, 10]]
    used = [[sum(share >= 0.01 for share in own) for own in line.usage or ()] for line in stored.metrics]
    assert [counts for _, counts in stored.prototype_counts] == used
    assert (stored.weights().path.name, stored.recipe.text) == ("best.safetensors", recipe.text)
    assert not stored.model.training
    last = stored.classifier("last")
    assert stored.weights("last").path.name == "last.safetensors"
    x = load_images(recipe, "test").images[:8].float() / 255
    assert last(x).logits.shape == (8, 2)


def test_the_same_run_twice_is_the_same(tmp_path: Path) -> None:
    recipe = read_recipe("digits-2", SHORT)
    for name in ("a", "b"):
        train(recipe, tmp_path / name, progress=False)
    assert (tmp_path / "a/last.safetensors").read_bytes() == (tmp_path / "b/last.safetensors").read_bytes()


def test_a_folder_of_another_recipe_is_refused_before_anything_happens(tmp_path: Path) -> None:
    train(read_recipe("digits-2", SHORT), tmp_path, progress=False)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(ValueError, match=r"weight 1\.0, there 0\.5"):
        train(read_recipe("digits-2", [*SHORT, "--weight", "1"]), tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_run_without_weights_is_refused(tmp_path: Path) -> None:
    edit(tmp_path / "recipe.yaml", read_recipe("digits-2").text)
    with pytest.raises(ValueError, match="has no best or last weights yet"):
        _ = Run(tmp_path).model


def test_a_run_whose_data_has_changed_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = read_recipe("digits-2", SHORT)
    train(recipe, tmp_path, progress=False)
    (tmp_path / "last.safetensors").unlink()
    data = recipe.data.load("train")
    fewer = data.subset(torch.arange(len(data) - 1))
    monkeypatch.setattr(type(recipe.data), "load", lambda self, split: fewer)
    with pytest.raises(ValueError, match=r"data of .* has changed since \(train_images \d+ then, \d+ now\)"):
        train(recipe, tmp_path)


def test_a_start_that_died_before_the_recipe_was_written_can_be_repeated(tmp_path: Path) -> None:
    recipe = read_recipe("digits-2", SHORT)
    claim(tmp_path, recipe.text, {}, {})
    (tmp_path / "recipe.yaml").unlink()
    assert train(recipe, tmp_path, progress=False).epochs == 2


def test_a_last_batch_of_one_image_is_left_out(tmp_path: Path) -> None:
    """Batch norm cannot train on it: 1297 images in batches of 144 leave one."""
    plain = ["--validation_size", "0", "--epochs", "1", "--schedule", "none", "--method.steps", "1"]
    train(read_recipe("digits-2", [*plain, "--batch_size", "144"]), tmp_path, progress=False)
    assert Run(tmp_path).metrics[-1].update == 9


def test_an_optimizer_that_cannot_be_built_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the optimizer cannot be built: Invalid learning rate: -1\.0"):
        train(read_recipe("digits-2", [*SHORT, "--optimizer.lr", "-1"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("width", "format"), [("0.125", "contiguous"), ("0.25", "channels_last")])
def test_layout_that_a_narrow_network_survives(
    width: str, format: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With channels last, some CPUs write out of bounds behind pointwise layers of few channels."""
    short = [
        "--epochs",
        "1",
        "--method",
        "FGSMAT",
        "--schedule",
        "none",
        "--batch_size",
        "512",
        "--validation_size",
        "0",
    ]
    recipe = read_recipe("digits", [*short, "--model", "ResNet18", "--model.width", width])
    with caplog.at_level("INFO", "protoat"):
        train(recipe, tmp_path / "run")
    assert f", {format}, " in caplog.text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], 0),  # epochs 30, drop at 20, merge_start 0.67: epoch 21
        (["--regularizer.merge_start", "0.5"], 1),
        (["--epochs", "40", "--regularizer.merge_start", "0.375", "--schedule.milestones", "[0.5]"], 1),
        (["--regularizer.merge_start", "0.5", "--schedule.milestones", "[0.5]"], 0),
        (["--regularizer.merge_start", "0.5", "--schedule", "none"], 0),
        (["--epochs", "4"], 0),  # the rate never drops, which is said by another line
        (["--regularizer.merge_start", "0.5", "--regularizer.merge_threshold", "0"], 0),
        (["--regularizer", "none"], 0),
    ],
)
def test_prototypes_that_merge_before_the_rate_drops_are_said(
    options: list[str], said: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("protoat.runs.train.fit", lambda *_, **__: None)
    train(read_recipe("digits-2", options), tmp_path / "run")
    text = "merge from the end of epoch 15 on, and the learning rate drops after epoch 20; to merge then, write"
    assert caplog.text.count(text) == caplog.text.count("prototypes merge from") == said


@pytest.mark.parametrize("method", [["PGDAT"], ["AWP", "--method.method", "TRADES"]])
def test_training_against_an_attack_that_cannot_cross_the_ball_is_said(
    method: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("protoat.runs.train.fit", lambda *_, **__: None)
    inner = "--method" if len(method) == 1 else "--method.method"
    for size, said in (("0.01", 1), ("0.05", 0)):
        caplog.clear()
        own = ["--method", *method, f"{inner}.steps", "2", f"{inner}.step_size", size]
        train(read_recipe("digits", own), tmp_path / size)
        assert caplog.text.count("2 steps of 0.01 move no pixel by more than 0.02, and eps is 0.1") == said
