"""The classes that a recipe may name, by key."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch

from protoat import data, methods, models, modes, pretraining, regularizers, training, weighting
from protoat.data import Source
from protoat.methods import Method
from protoat.modes import Modes
from protoat.regularizers import Regularizer
from protoat.training import Averaging, Schedule
from protoat.weighting import Weighting

HOMES: tuple[ModuleType, ...] = (data, methods, models, modes, pretraining, regularizers, training, weighting)
_PACKAGES = {f"protoat.{name}": f"{home.__name__}.{name}" for home in HOMES for name in home.__all__}

# Of each key whose value is a class: what it is a subclass of, and where such are found.
CLASSES: dict[str, tuple[Any, tuple[ModuleType, ...]]] = {
    "data": (Source, (data,)),
    "model": (models.ImageClassifier, (models,)),
    "head": (torch.nn.Module, (models.multi_prototype,)),
    "method": (Method, (methods,)),
    "regularizer": (Regularizer, (regularizers,)),
    "modes": (Modes, (modes,)),
    "optimizer": (torch.optim.Optimizer, (torch.optim, training)),
    "schedule": (Schedule, (training,)),
    "averaging": (Averaging, (training,)),
    "auxiliary": (Source, (data,)),
    "weighting": (Weighting, (weighting,)),
}
# Of such a key, words that stand for a class.
WORDS = {
    "modes": {"known": "KnownModes", "discovered": "DiscoveredModes"},
    "weighting": {"group-dro": "GroupDRO", "cfol": "CFOL"},
}
_NO_STEP_OF_OURS = ("LBFGS", "SparseAdam")  # one evaluates the loss several times, one takes sparse gradients only


def choices_of(key: str, *, pretrains: bool = False) -> dict[str, type | None]:
    """The classes that `key` may have, by short name; None stands for none.

    >>> sorted(choices_of("averaging"))
    ['EMA', 'FAWA', 'SWA', 'none']
    """
    # A method inside another one is chosen by the same names; `initialise.head` is a word.
    key = "" if key == "initialise.head" else key.rpartition(".")[2]
    base, homes = CLASSES.get(key, (None, ()))
    if key == "method" and pretrains:
        homes = (pretraining,)
    found = [item for home in homes for item in vars(home).values() if inspect.isclass(item) and issubclass(item, base)]
    found = [item for item in found if item is not base and not inspect.isabstract(item)]
    if base is Method:  # one that takes an attack is for the library
        found = [item for item in found if next(iter(inspect.signature(item).parameters)) == "threat"]
    found = sorted((item for item in found if item.__name__ not in _NO_STEP_OF_OURS), key=lambda item: item.__name__)
    named: dict[str, type | None] = {item.__name__: item for item in found}
    optional = ("head", "regularizer", "modes", "weighting", "schedule", "averaging")
    return named | {"none": None} if key in optional else named


def in_full(content: Any) -> Any:
    """A recipe as plain values, in which words that stand for a class are its name.

    >>> in_full({"modes": "known", "seed": 0})
    {'modes': 'KnownModes', 'seed': 0}
    """
    if not isinstance(content, Mapping):
        return content
    found = dict(content)
    for key, words in WORDS.items():
        value = found.get(key)
        if isinstance(value, str):
            found[key] = words.get(value, value)
        elif isinstance(value, Mapping) and isinstance(name := value.get("class_path"), str):
            found[key] = {**value, "class_path": words.get(name, name)}
    return found


def with_packages(content: Any) -> Any:
    """A recipe whose classes of ours are named with their package, by which stored recipes know them.

    >>> with_packages({"method": {"class_path": "protoat.PGDAT"}})
    {'method': {'class_path': 'protoat.methods.PGDAT'}}
    """
    if not isinstance(content, dict):
        return content
    return {
        key: _PACKAGES.get(value, value) if key == "class_path" else with_packages(value)
        for key, value in content.items()
    }
