"""The state of a run as JSON values: how far it is, and the settings that a resumed run must share."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from protoat.arguments import check_choice
from protoat.attacks import Attack
from protoat.attacks.base import plain
from protoat.attacks.precision import AttackPrecision
from protoat.attacks.timed_precision import timed_precision
from protoat.errors import UserError
from protoat.methods import Method
from protoat.training import checkpoint
from protoat.training.learner import Learner

# Of an optimizer's groups: what they hold, what a schedule moves, and how a step is computed but not what it gives.
_NO_SETTINGS = ("params", "lr", "initial_lr", "foreach", "fused", "capturable", "differentiable")


@dataclass
class RunState:
    """Position of a run and what it has measured.

    Attributes:
        identity: what must agree for a resumed run to end where the interrupted one would have.
        update: optimizer steps taken, those of an epoch that was taken back included.
        epoch: epochs finished.
        batch: batches done in the present epoch.
        epoch_update: value of `update` when the present epoch began.
        sums, count: loss terms added up over `count` updates of the present epoch.
        seconds: time spent in the present epoch.
        history: the line of each finished epoch.
        best: epoch and accuracies of the best checkpoint.
        stopped: why the run ended early.
    """

    identity: dict[str, Any]
    update: int = 0
    epoch: int = 0
    batch: int = 0
    epoch_update: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    stopped: str | None = None

    def resume(self, saved: Mapping[str, Any]) -> None:
        """Takes over the values of an interrupted run.

        Raises:
            ValueError: it was another run, and what differs is named; or these are no values of a run.
        """
        if wrong := [entry.name for entry in fields(self) if not self._suits(entry.name, saved.get(entry.name))]:
            raise UserError(f"the state of the run has no {wrong[0]!r} that a run could go on from")
        if different := list(differences(saved["identity"], self.identity)):
            raise UserError(
                f"the folder holds checkpoints of another run ({'; '.join(different)}); "
                "resume with the same settings or choose another folder"
            )
        for entry in fields(self):
            setattr(self, entry.name, saved[entry.name])

    def _suits(self, name: str, value: Any) -> bool:
        """Whether a value out of JSON could stand here."""
        if name == "sums":
            return isinstance(value, dict) and all(isinstance(number, int | float) for number in value.values())
        if name == "history":
            return isinstance(value, list) and all(isinstance(line, dict) and "epoch" in line for line in value)
        if name == "best":
            return value is None or (isinstance(value, dict) and isinstance(value.get("epoch"), int))
        if name == "stopped":
            return value is None or isinstance(value, str)
        return isinstance(value, type(getattr(self, name))) and (name == "identity" or value >= 0)

    def finish_epoch(self, line: dict[str, Any]) -> None:
        """Moves to the beginning of the next epoch; an epoch that was taken back does not count."""
        self.epoch += self.stopped is None
        self.batch = self.count = 0
        self.epoch_update = self.update
        self.sums = {}
        self.seconds = 0.0
        self.history.append(line)


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


def chosen_precision(
    choice: AttackPrecision | Literal["auto"], folder: Path | None, learner: Learner, images: Tensor, labels: Tensor
) -> AttackPrecision:
    """The precision of a run's attacks.

    Args:
        choice: what the run asks for; ``"auto"`` is the one it began with, else the faster one; ``"fp32"`` where
            the method has no attack that bfloat16 is for.
        folder: of the run, if it has one.
        learner: holds the network that is timed.
        images, labels: a first batch.

    Raises:
        ValueError: an unknown choice.
    """
    check_choice(Literal["fp32", "bf16", "auto"], attack_precision=choice)
    if choice != "auto":
        return choice
    found = None if folder is None else checkpoint.load_latest(folder / "checkpoints")
    if found is not None:
        with suppress(KeyError, TypeError):  # a run of before there was a choice
            if found.state["run"]["identity"]["attack_precision"] == "bf16":
                return "bf16"
        return "fp32"
    attack = getattr(learner.objective.method, "attack", None)
    if not isinstance(attack, Attack) or attack.gradient_steps is None:
        return "fp32"
    device = learner.accelerator.device
    return timed_precision(learner.unwrapped, images.to(device), labels.to(device), learner.objective.method.threat)[0]
