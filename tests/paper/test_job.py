"""The identity of a run: all that could change its number, and nothing else."""

from __future__ import annotations

import json
import pickle
import shlex
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml

from protoat.paper.budget import read_budget
from protoat.paper.job import Job, Task
from protoat.paper.rows import CIFAR10, CIFAR10_2, FAST, OURS_ACL, SINGLE_MODE, TLA, Setup, with_prototypes
from protoat.recipes.fingerprint import settings
from protoat.recipes.initialise import Initialise
from protoat.recipes.overrides import options
from protoat.recipes.reading import read_recipe, recipe_from_text, recipe_parser, resolve
from protoat.recipes.shipped import recipe_names
from protoat.runs.fingerprint import fingerprint_of_folder
from tests.whole import edit, weights

BASE = ("digits",)
ACL = Job("acl", ("digits-acl",))
GROUPS = {"a": ["zero"], "b": ["one"]}
LATER_OF_SOFT_TRIPLE = {"prototype_init": "random", "warmup_epochs": 1, "tied": False}


def identity(*, start: Job | None = None, **overrides: Any) -> str:
    return Job("x", BASE, overrides, start).identity


def given(**arguments: Any) -> dict[str, Any]:
    """Arguments of a class that stays."""
    return {"init_args": arguments}


def stored(folder: Path, *options: str, config: str = "digits") -> Path:
    folder.mkdir(parents=True)
    edit(folder / "recipe.yaml", read_recipe(config, options).text)
    return folder


def test_order_and_defaults_do_not_count() -> None:
    plain = identity(epochs=3, seed=1)
    assert plain == identity(seed=1, epochs=3, weight=0.5)
    assert plain == identity(epochs=3, seed=1, checkpoint_every=7, data=given(root="/elsewhere"))
    assert plain == Job("another", BASE, {"epochs": 3, "seed": 1}).identity


def test_every_other_key_counts() -> None:
    changes: dict[str, Any] = {
        "data": {"class_path": "MNIST"},
        "model": {"class_path": "ResNet18"},
        "threat": {"eps": 0.2},
        "method": {"class_path": "FreeAT"},
        "optimizer": given(momentum=0.8),
        "epochs": 4,
        "batch_size": 32,
        "groups": 2,
        "augment": {"padding": 1},
        "validation_size": 10,
        "validate_every": 2,
        "regularizer": given(tau=0.3),
        "weight": 0.1,
        "norm_weight": 0.1,
        "norm": "weights",
        "dml_input": "clean",
        "prototype_lr_factor": 3,
        "schedule": None,
        "averaging": 0.99,
        "clip_norm": 1.0,
        "evaluation_threat": {"eps": 0.2},
        "seed": 1,
        "precision": "bf16",
        "attack_precision": "bf16",
        "compile": True,
        "memory_format": "contiguous",
        "label_smoothing": 0.1,
        "select": "worst-mode",
        "train_size": 1000,
        "long_tail": 10.0,
        "head": {"class_path": "MultiPrototypeHead"},
        "modes": {"class_path": "KnownModes"},
        "weighting": {"class_path": "GroupDRO"},
        "validation_attack": "pgd20",
    }
    assert changes.keys() | {"initialise", "checkpoint_every"} == yaml.safe_load(read_recipe("digits").text).keys()
    found = {identity(**{key: value}) for key, value in changes.items()}
    assert len(found | {identity()}) == len(changes) + 1


def test_a_recipe_from_before_gradients_could_be_clipped_is_the_same_run(tmp_path: Path) -> None:
    job = Job("x", BASE)
    older = yaml.safe_load(job.recipe.text)
    assert older.pop("clip_norm") is None
    edit(tmp_path / "recipe.yaml", yaml.safe_dump(older))
    assert fingerprint_of_folder(tmp_path) == job.identity


def test_where_it_starts_counts_and_how_it_takes_over() -> None:
    other = Job("acl", ("digits-acl",), {"seed": 1})
    kinds = [
        identity(),
        identity(start=ACL),
        identity(start=other),
        identity(initialise={"finetune": "head"}, start=ACL),
    ]
    assert len(set(kinds)) == 4
    assert identity(initialise={"finetune": "all", "head": "zero"}, start=ACL) == identity(start=ACL)
    assert set(Initialise.__dataclass_fields__) == {"run", "weights", "branch", "head", "finetune", "sha256"}


def test_a_name_that_is_no_slug_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a run cannot be called '\.\./x'"):
        Job("../x", BASE)
    with pytest.raises(ValueError, match="'digit' is unknown; did you mean 'digits'"):
        _ = Job("x", ("digit",)).identity


def test_a_folder_is_found_by_what_it_holds(tmp_path: Path) -> None:
    job = Job("mine", BASE, {"seed": 3})
    assert job.folder(tmp_path) == tmp_path / f"mine-{job.identity[:12]}"
    stored(tmp_path / "other", "--seed", "4")
    (tmp_path / "damaged").mkdir()
    edit(tmp_path / "damaged/recipe.yaml", "data: [")
    assert job.folder(tmp_path).name.startswith("mine-")
    by_hand = stored(tmp_path / "by-hand", "--seed", "3", "--checkpoint_every", "5")
    assert job.folder(tmp_path) == by_hand
    assert fingerprint_of_folder(by_hand) == job.identity
    assert fingerprint_of_folder(tmp_path / "damaged") is None
    assert fingerprint_of_folder(tmp_path / "absent") is None


def test_a_recipe_of_a_version_that_knew_fewer_keys_is_still_found(tmp_path: Path) -> None:
    job = Job("mine", BASE)
    folder = stored(tmp_path / "old")
    content = yaml.safe_load((folder / "recipe.yaml").read_text())
    for key in ("dml_input", "validate_every", "compile", "averaging"):
        del content[key]
    edit(folder / "recipe.yaml", yaml.safe_dump(content))
    assert job.folder(tmp_path) == folder


@pytest.mark.parametrize(
    "change",
    [
        {"averaging": {"class_path": "planted.Zen"}},
        {"averaging": "planted.Zen"},
        {"schedule": "planted.Zen"},
        {"method": {"init_args": {"loss": "planted.zen"}}},
        {"surplus": {"class_path": "planted.Zen"}},
        {"initialise": {"run": "{}", "branch": None, "head": "zero", "finetune": "all", "sha256": None}},
    ],
)
@pytest.mark.parametrize("start", [None, ACL])
def test_what_only_a_recipe_in_the_store_names_is_never_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], start: Job | None
) -> None:
    (tmp_path / "planted.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    planted = stored(tmp_path / "planted-run", config="digits-acl")
    damaged = yaml.safe_load((planted / "recipe.yaml").read_text()) | {"averaging": {"class_path": "planted.Zen"}}
    edit(planted / "recipe.yaml", yaml.safe_dump(damaged))
    folder = stored(tmp_path / "foreign")
    content = yaml.safe_load((folder / "recipe.yaml").read_text())
    for key, value in change.items():
        started = {**value, "run": str(planted)} if key == "initialise" else value
        content[key] = {**content[key], **value} if key == "method" else started
    edit(folder / "recipe.yaml", yaml.safe_dump(content))
    job = Job("mine", BASE, start=start)
    assert job.folder(tmp_path).name.startswith("mine-")
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"regularizer": None}, {"regularizer": None, "weight": 0.1, "norm_weight": 1.0}),
        ({"averaging": 0.99}, {"averaging": {"class_path": "EMA", **given(decay=0.99)}}),
        (
            {"groups": 2, "regularizer": given(prototypes_per_class=3)},
            {"groups": 2, "regularizer": given(prototypes_per_class=[3, 3])},
        ),
    ],
)
def test_two_ways_to_write_one_training_are_one(tmp_path: Path, one: dict[str, Any], other: dict[str, Any]) -> None:
    assert identity(**one) == identity(**other) != identity()
    folder = stored(tmp_path / "by-hand", *options(other))
    assert Job("mine", BASE, one).folder(tmp_path) == folder


def test_only_equal_numbers_of_prototypes_are_written_as_one() -> None:
    def found(part: str, key: str, value: list[int]) -> Any:
        return settings({part: {"init_args": {key: value}}})[f"{part}.init_args.{key}"]

    for given, kept in (([3, 3], 3), ([2, 3], [2, 3]), ([], [])):
        assert found("regularizer", "prototypes_per_class", given) == kept
    assert found("schedule", "milestones", [8]) == [8]
    assert found("model", "std", [1, 1, 1]) == [1, 1, 1]


def flattened(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix[1:]: value}
    return {key: leaf for name, entry in value.items() for key, leaf in flattened(entry, f"{prefix}.{name}").items()}


@pytest.mark.parametrize("name", recipe_names())
def test_a_shipped_recipe_has_the_digest_of_its_values_as_they_stand(name: str) -> None:
    """So runs that are in stores already are found by every later version."""
    job = Job("x", (name,))
    values = flattened(yaml.safe_load(job.recipe.text))
    idle = {"checkpoint_every", "data.init_args.root", "data.init_args.download"}
    if "regularizer" in values:
        idle |= {"weight", "norm_weight", "norm", "dml_input"}
    # The first recipes had no such keys.
    later = {"label_smoothing": 0, "attack_precision": "fp32", "select": "robust"}
    later |= {f"regularizer.init_args.{key}": usual for key, usual in LATER_OF_SOFT_TRIPLE.items()}
    idle |= {key for key, usual in later.items() if values.get(key) == usual}
    counted = {key: value for key, value in values.items() if value is not None and key not in idle}
    assert job.identity == sha256(json.dumps([counted, {}, None], sort_keys=True).encode()).hexdigest()


def test_single_mode_is_one_prototype_for_each_class() -> None:
    budget = read_budget("paper")
    single, one = (row.job(CIFAR10_2, budget, seed=0) for row in (SINGLE_MODE, with_prototypes(1, 1)))
    assert single.identity == one.identity


def test_where_files_lie_is_no_part_but_of_ones_own_images() -> None:
    assert identity(data=given(root="/a")) == identity(data=given(root="/b"))
    own, other = ({"class_path": "ImageFolder", **given(root=root)} for root in ("/a", "/b"))
    assert identity(data=own) != identity(data=other)


def test_a_run_that_starts_from_another_is_found(tmp_path: Path) -> None:
    start = stored(tmp_path / "start", config="digits-acl")
    weights(start / "last.safetensors")
    job = Job("mine", BASE, start=ACL)
    usual = job.folder(tmp_path)
    assert job.started(tmp_path) == {"initialise": {"run": str(start)}}
    recipe = read_recipe(job.config, job.started(tmp_path))
    usual.mkdir()
    edit(usual / "recipe.yaml", recipe.text)
    by_hand = usual.rename(tmp_path / "by-hand")
    assert recipe_from_text(recipe.text).initialise is not None
    assert fingerprint_of_folder(by_hand) == job.identity
    assert job.folder(tmp_path) == by_hand
    # Without the run it starts from, only job.json knows.
    moved = by_hand.rename(tmp_path / "moved")
    (start / "recipe.yaml").unlink()
    assert fingerprint_of_folder(moved) is None
    edit(moved / "job.json", json.dumps({"start": ACL.identity}))
    (moved / "recipe.yaml").touch()
    assert fingerprint_of_folder(moved) == job.identity


def test_commands_do_it_by_hand(tmp_path: Path) -> None:
    task = Task(Job("mine", BASE, {"groups": GROUPS}, ACL), ("clean", "pgd10@0.2"), 50, audit=True)
    pretraining, training, evaluating, auditing = (shlex.split(part) for part in task.command(tmp_path).split(" && "))
    acl, mine = (str(job.folder(tmp_path)) for job in (ACL, task.job))
    assert pretraining == ["protoat", "pretrain", "--config", "digits-acl", "--out", acl]
    asked = ["--config", "digits", "--groups", "{a: [zero], b: [one]}", "--initialise.run", acl]
    assert training == ["protoat", "train", *asked, "--out", mine]
    assert evaluating == ["protoat", "evaluate", mine, "--attacks", "clean", "pgd10@0.2", "--n", "50"]
    assert auditing == ["protoat", "audit", mine, "--n", "50"]
    assert replace(task, checks=("A1", "C1")).command(tmp_path).endswith(" --n 50 --checks A1 C1")


def test_a_task_travels_without_what_is_cached() -> None:
    task = Task(Job("mine", BASE, {"groups": GROUPS}, ACL), ("clean",))
    known = task.job.identity
    again = pickle.loads(pickle.dumps(task))
    assert again == task
    assert vars(again.job).keys() == {"name", "config", "overrides", "start", "takes"}
    assert again.job.identity == known


def test_a_run_that_finds_modes_in_another_says_which(tmp_path: Path) -> None:
    plain = Job("plain", BASE)
    modes = {"modes": {"class_path": "DiscoveredModes", **given(clusters=4)}, "regularizer": None}
    job = Job("mine", BASE, modes, plain, takes="embeddings")
    folder = plain.folder(tmp_path)
    assert job.started(tmp_path)["modes"] == {**modes["modes"], **given(clusters=4, encoder=str(folder))}
    assert f"--modes.encoder {folder}" in job.command(tmp_path)
    assert (
        len({job.identity, Job("x", BASE, modes).identity, Job("x", BASE, modes, ACL, takes="embeddings").identity})
        == 3
    )


@pytest.mark.parametrize("setup", [FAST, TLA, OURS_ACL])
def test_the_options_of_a_command_ask_for_the_same_run(setup: Setup) -> None:
    job = setup.job(CIFAR10, read_budget("smoke"), seed=0)
    words = [word for word in job.arguments if word.startswith("--") and word != "--config"]
    assert len(set(words)) == len(words)
    recipe, _ = resolve(recipe_parser(), job.arguments)
    assert recipe.text == job.recipe.text


def test_text_that_reads_like_another_value_stays_text() -> None:
    names = {"class_path": "ImageFolder", **given(path="/images", classes=["1e-3", "none", "--seed", "08"])}
    assert Job("x", BASE, {"data": names}).recipe.data.classes == names["init_args"]["classes"]
