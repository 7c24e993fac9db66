"""The fingerprint of a run: a hash of the settings that determine its weights, also of recipes of earlier versions."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from hashlib import sha256
from typing import Any, NamedTuple

from protoat.recipes.choices import choices_of
from protoat.recipes.initialise import Initialise
from protoat.recipes.recipe import Recipe
from protoat.training import EMA

# Where files are (weights are known by their SHA-256), and how often a run is saved.
_NO_PART_OF_A_RUN = (
    "checkpoint_every",
    "initialise.run",
    "initialise.weights",
    "modes.init_args.encoder",
    *(f"{source}.init_args.{key}" for source in ("data", "auxiliary") for key in ("root", "download")),
)
_ROOT = "data.init_args.root"
_ENCODER_SHA256 = "modes.init_args.encoder_sha256"
_PROTOTYPES = tuple(f"{key}.init_args.prototypes_per_class" for key in ("head", "regularizer"))
# Arguments that came later, at the default that says what was done before; see `later_defaults`.
_LATER_ARGUMENTS = {
    "method.init_args.clip_noise": True,
    "method.init_args.method.init_args.clip_noise": True,  # of NFGSM within AWP
    "regularizer.init_args.prototype_init": "random",
    "regularizer.init_args.warmup_epochs": 1,
    "regularizer.init_args.tied": False,
}
_OF_A_REGULARIZER = frozenset({"weight", "norm_weight", "norm", "dml_input"})
_HOW_TO_START = {
    entry.name: entry.default for entry in fields(Initialise) if entry.name in ("branch", "head", "finetune")
}
# Fields of the first recipes, whose defaults are in the fingerprints of stored runs. No field is ever added here.
FIRST = (
    *("batch_size", "validation_size", "validate_every", "weight", "norm_weight", "norm", "dml_input"),
    *("prototype_lr_factor", "seed", "precision", "compile"),
)
# Arguments of regularizers that came later, with what was done before there were such.
_BEFORE = {"projection": None, "drop_below": None}


class Difference(NamedTuple):
    """A setting in which two recipes differ, with both values; None where there is none."""

    key: str
    ours: Any
    theirs: Any

    @property
    def words(self) -> list[str]:
        """The key and both values as text."""
        return [self.key, *("none" if value is None else str(value) for value in (self.ours, self.theirs))]

    def __str__(self) -> str:
        key, ours, theirs = self.words
        return f"{key} {ours}, there {theirs}"


def later_defaults(kind: type[Recipe]) -> dict[str, Any]:
    """Defaults of the fields that came later: a run at a default is the run that was stored before there was a field.

    >>> "batch_size" in later_defaults(Recipe)
    False
    """
    known = {entry.name: entry.default for entry in fields(kind) if entry.init and entry.default is not MISSING}
    return {name: value for name, value in known.items() if name not in FIRST and value is not None}


_LATER = later_defaults(Recipe)


def settings(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What in a recipe decides on the weights a run ends with, on one level; two ways to write one choice are one.

    Args:
        recipe: plain values, as `Recipe.text` holds them.

    >>> settings({"seed": 0, "threat": {"eps": "8/255"}, "checkpoint_every": 10, "clip_norm": None})
    {'seed': 0, 'threat.eps': '8/255'}
    """
    values = {key: value for key, value in flat(recipe) if not key.endswith(_NO_PART_OF_A_RUN)}
    if _has_no_regularizer(recipe):
        values = {key: value for key, value in values.items() if key not in _OF_A_REGULARIZER}
    if isinstance(decay := values.get("averaging"), float):
        del values["averaging"]
        values |= {"averaging.class_path": "protoat.training.EMA"}
        values |= {f"averaging.init_args.{key}": value for key, value in vars(EMA(decay=decay)).items()}
    for key in _PROTOTYPES:
        counts = values.get(key)
        if isinstance(counts, list) and counts and counts == counts[:1] * len(counts):
            values[key] = counts[0]
    if str(values.get("data.class_path")).endswith(".ImageFolder"):
        values[_ROOT] = recipe["data"]["init_args"]["root"]  # it says which images
    later = _LATER | _LATER_ARGUMENTS
    return {key: value for key, value in values.items() if value is not None and later.get(key) != value}


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[Difference]:
    """The settings in which two recipes differ; where files are, and what is idle in one of the two, does not count.

    >>> [str(each) for each in differences({"threat": {"eps": "8/255"}}, {"threat": {"eps": "4/255"}})]
    ['threat.eps 8/255, there 4/255']
    """
    here, there = settings(ours), settings(theirs)
    idle = {_ROOT, *(_OF_A_REGULARIZER if _has_no_regularizer(ours) or _has_no_regularizer(theirs) else ())}
    return [
        Difference(key.replace("init_args.", ""), here.get(key), there.get(key))
        for key in {**here, **there}
        if here.get(key) != there.get(key) and key not in idle
    ]


def fingerprint(recipe: Mapping[str, Any], start: str | None = None, encoder: str | None = None) -> str:
    """SHA-256 of all that makes two runs the same run.

    Args:
        recipe: plain values of a complete recipe, as `Recipe.text` holds them.
        start: fingerprint of the run, or SHA-256 of the file, that it takes weights from.
        encoder: fingerprint of the run in whose embeddings modes are found, in place of the SHA-256 of its weights.

    >>> fingerprint({"seed": 0, "checkpoint_every": 10}) == fingerprint({"seed": 0})
    True
    >>> fingerprint({"seed": 0}) == fingerprint({"seed": 1})
    False
    """
    choice = recipe.get("initialise") or {}
    how = {key: choice[key] for key, usual in _HOW_TO_START.items() if choice.get(key, usual) != usual}
    values = settings({key: value for key, value in recipe.items() if key != "initialise"})
    values |= {} if encoder is None else {_ENCODER_SHA256: encoder}
    return sha256(json.dumps([values, how, start], sort_keys=True).encode()).hexdigest()


def _has_no_regularizer(recipe: Mapping[str, Any]) -> bool:
    return recipe.get("regularizer", "") is None


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Keys and values of nested mappings on one level.

    >>> dict(flat({"threat": {"eps": 0.3}, "seed": 0}))
    {'threat.eps': 0.3, 'seed': 0}
    """
    if not isinstance(value, Mapping):
        yield prefix, value
        return
    for key, entry in value.items():
        yield from flat(entry, f"{prefix}.{key}" if prefix else str(key))


def settings_of(choices: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as trackers are told it.

    >>> settings_of({"method": {"class_path": "protoat.methods.PGDAT", "init_args": {"steps": 7}}})
    {'method.class_path': 'protoat.methods.PGDAT', 'method.steps': 7}
    """
    return {key.replace("init_args.", ""): value for key, value in flat(choices)}


def completed(content: Any) -> Any:
    """The plain values of a recipe; where a run stored it, with what its version did for what it does not say.

    A stored recipe says everything that its version knew, all fields of the first recipes among them.

    >>> stored = dict.fromkeys(FIRST) | {"regularizer": {"class_path": "SoftTriple", "init_args": {"tau": 0.2}}}
    >>> completed(stored)["regularizer"]["init_args"]
    {'tau': 0.2, 'projection': None, 'drop_below': None}
    """
    if not isinstance(content, dict) or not content.keys() >= set(FIRST):
        return content
    regularizer = content.get("regularizer")
    if not isinstance(regularizer, dict) or not isinstance(given := regularizer.get("init_args"), dict):
        return content
    kind = choices_of("regularizer").get(str(regularizer.get("class_path")).rpartition(".")[2])
    known = () if kind is None else inspect.signature(kind).parameters
    added = {name: value for name, value in _BEFORE.items() if name in known and name not in given}
    return {**content, "regularizer": {**regularizer, "init_args": {**given, **added}}} if added else content
