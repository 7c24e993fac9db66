"""The settings of `fit` that a resumed run must share, as JSON values."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from protoat.attacks import Attack
from protoat.attacks.base import plain
from protoat.attacks.precision import AttackPrecision
from protoat.methods import Method
from protoat.training.learner import Learner

# Of an optimizer's groups: what they hold, what a schedule moves, and how a step is computed but not what it gives.
_NO_SETTINGS = ("params", "lr", "initial_lr", "foreach", "fused", "capturable", "differentiable")


def identity(
    learner: Learner, validation_attack: Attack | None, attack_precision: AttackPrecision, batches: int
) -> dict[str, Any]:
    """What must agree for a resumed run to end where the interrupted one would have, as far as `fit` can see it.

    It comes from settings alone, so that it is the same however far objective and optimizer have been trained.
    """
    given, rule = learner.settings, learner.settings.averaging
    objective, threat = learner.objective, learner.objective.method.threat
    return {
        "epochs": given.epochs,
        "batches": batches,
        "updates_per_batch": objective.updates_per_batch,
        "processes": learner.accelerator.num_processes,
        "schedule": given.schedule.description,
        "lr": learner.base_lrs,
        "method": f"{type(objective.method).__name__}, ThreatModel(eps={threat.eps!r}, norm={threat.norm!r})",
        "method settings": settings(objective.method),
        "regularizer": None if objective.regularizer is None else type(objective.regularizer).__name__,
        "regularizer settings": None if objective.regularizer is None else settings(objective.regularizer),
        "objective": [objective.weight, objective.norm_weight, objective.norm, objective.dml_input],
        "label_smoothing": objective.label_smoothing,
        "modes": None if objective.modes is None else type(objective.modes).__name__,
        "modes settings": None if objective.modes is None else settings(objective.modes),
        "modes of images": None if objective.modes is None else objective.modes.digest,
        "weighting": None
        if objective.weighting is None
        else {"class": type(objective.weighting).__name__, **settings(objective.weighting)},
        "optimizer": type(learner.raw_optimizer).__name__,
        "optimizer settings": {
            f"group {number}": {name: _plain(value) for name, value in group.items() if name not in _NO_SETTINGS}
            for number, group in enumerate(learner.raw_optimizer.param_groups)
        },
        "averaging": None if rule is None else f"{type(rule).__name__}{vars(rule)}",
        "validation attack": _plain(validation_attack),
        "clip_norm": given.clip_norm,
        "precision": learner.accelerator.mixed_precision,
        "attack_precision": attack_precision,
        "seed": given.seed,
        "select": given.select,
    }


def settings(part: object) -> dict[str, Any]:
    """The arguments of a part's constructor that it keeps under their own names, and its attacks, as JSON values.

    All else that a part holds may be what a run has made of it.

    >>> from protoat.methods import TRADES
    >>> from protoat.threats import Linf
    >>> found = settings(TRADES(Linf(0.1), beta=6.0, steps=2))
    >>> found["beta"], found["attack"]["steps"], found["threat"]
    (6.0, 2, {'eps': 0.1, 'norm': 'linf'})
    """
    constructors = (vars(kind).get("__init__") for kind in type(part).__mro__)
    known = {name for init in constructors if inspect.isfunction(init) for name in inspect.signature(init).parameters}
    held = vars(part) | {
        name: module for name, module in getattr(part, "_modules", {}).items() if isinstance(module, Method)
    }
    kept = {name: value for name, value in held.items() if name in known or isinstance(value, Attack)}
    return {name: _plain(value) for name, value in sorted(kept.items())}


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any], within: str = "") -> Iterator[str]:
    """Each setting that differs, in words. What one of the two does not know, as an older checkpoint, does not count.

    >>> list(differences({"seed": 1, "group": {"decay": 0.1}}, {"seed": 1, "group": {"decay": 0.2}, "new": 3}))
    ['group decay 0.1 there, 0.2 here']
    """
    for name, value in ours.items():
        if name not in theirs:
            continue
        other, full = theirs[name], f"{within}{name}"
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            yield from differences(other, value, f"{full} ")
        elif value != other:
            yield f"{full} {_brief(other)} there, {_brief(value)} here"


def _brief(value: Any) -> Any:
    """A part by its class alone."""
    return value.get("class", value) if isinstance(value, Mapping) else value


def _plain(value: Any) -> Any:
    """A JSON value that says what `value` is."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Attack | Method):
        return {"class": type(value).__name__, **settings(value)}
    if is_dataclass(value) and not isinstance(value, type):
        return {entry.name: _plain(getattr(value, entry.name)) for entry in fields(value)}
    return plain(value)
