"""Reads the records of a folder: evaluations, audit, and the training of a run."""

from __future__ import annotations

import logging
import math
import os
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from protoat.errors import UserError
from protoat.evaluation.masking_audit import AuditReport
from protoat.evaluation.probe import Probe
from protoat.evaluation.record import Evaluation, Judged
from protoat.records.files import (
    read_audit,
    read_best,
    read_epochs,
    read_evaluation,
    read_facts,
    read_probe,
    read_recipe_file,
)
from protoat.records.training import Best, Epoch
from protoat.runs.claims import called, run_folders
from protoat.training.weights import checked_digest, is_whole

logger = logging.getLogger(__name__)


class Records:
    """Evaluations and audit of a folder, read when they are asked for, and once.

    Args:
        folder: as ``protoat evaluate --out`` has written it, or a run's.

    Raises:
        ValueError: each attribute: a file that it needs is damaged.
    """

    def __init__(self, folder: Path | str) -> None:
        self.path = Path(folder)

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.resolve().name

    @cached_property
    def evaluation(self) -> Evaluation | None:
        """The last measurement."""
        return read_evaluation(self.path / "evaluation.json")

    @property
    def aside(self) -> dict[str, Evaluation]:
        """Evaluations that were put aside because they are of another subject, by the names of their files."""
        found = {path.name: read_evaluation(path) for path in sorted(self.path.glob("evaluation-*.json"))}
        return {name: record for name, record in found.items() if record is not None}

    @property
    def evaluations(self) -> list[Evaluation]:
        """The last one, then those that were put aside."""
        last = read_evaluation(self.path / "evaluation.json")
        return [*([] if last is None else [last]), *self.aside.values()]

    @cached_property
    def audit(self) -> AuditReport | None:
        """The last audit."""
        return read_audit(self.path / "audit.json")

    @property
    def has_weights(self) -> bool:
        """Whether weights lie beside the records."""
        return any(self.path.glob("*.safetensors"))

    @property
    def run(self) -> RunRecords | None:
        """The same of a run; None where the folder is no run's."""
        return None

    @property
    def pretrains(self) -> bool:
        """Whether it is an encoder without a head, which only linear heads can measure."""
        return False

    @property
    def complete(self) -> bool:
        """Whether training has ended."""
        return True

    @property
    def outdated(self) -> bool:
        """Whether weights have been replaced since they were measured."""
        return False


class RunRecords(Records):
    """What is stored of a run, without building anything that its recipe names.

    Args:
        folder: the run's.

    Raises:
        ValueError: not a run folder. Each attribute: a file that it needs is damaged.
    """

    def __init__(self, folder: Path | str) -> None:
        super().__init__(folder)
        path = self.path
        if os.path.lexists(path / "recipe.yaml"):
            return
        near = ", ".join(str(run) for run in run_folders(path)[:3])
        reason = "it has no recipe.yaml" if path.exists() else "there is no such folder"
        if (weights := path / "last.safetensors").exists():
            reason += f"; write protoat evaluate --model package.module:builder --weights {weights}"
        raise UserError(f"{path} is not a run folder: {reason}" + (f"; did you mean {near}?" * bool(near)))

    @property
    def run(self) -> RunRecords:
        """Itself."""
        return self

    @cached_property
    def _recipe_file(self) -> tuple[str, dict[str, Any]]:
        return read_recipe_file(self.path)

    @property
    def recipe_text(self) -> str:
        """The whole recipe as YAML."""
        return self._recipe_file[0]

    @property
    def choices(self) -> dict[str, Any]:
        """The whole recipe as plain values; nothing that it names is imported."""
        return self._recipe_file[1]

    @property
    def pretrains(self) -> bool:
        """Whether the method is one of `protoat.pretraining`, told without building it."""
        return self.chosen("method").startswith("protoat.pretraining.")

    def chosen(self, key: str) -> str:
        """The class that the recipe chooses for `key`, as it writes it; ``none`` where it chooses none."""
        choice = self.choices.get(key)
        return str(choice.get("class_path", "none") if isinstance(choice, dict) else choice or "none")

    @cached_property
    def facts(self) -> dict[str, Any]:
        """``run.json``: the shape of the data, and where and how the run was started."""
        return read_facts(self.path)

    def fact(self, key: str) -> Any:
        """One of `facts` that cannot be done without.

        Raises:
            ValueError: it is not there.
        """
        if key not in self.facts:
            raise UserError(
                f"{self.path / 'run.json'} is damaged or not there: no {key!r}; put it back, or train again"
            )
        return self.facts[key]

    @property
    def class_names(self) -> list[str]:
        """Names of the classes that it was trained on."""
        return list(self.fact("class_names"))

    @cached_property
    def metrics(self) -> list[Epoch]:
        """What is recorded of each epoch.

        Raises:
            ValueError: they are damaged, or not those of the recipe or the data.
        """
        lines, epochs = read_epochs(self.path), self.choices.get("epochs", math.inf)
        if not lines:
            return []
        last, classes = lines[-1], self.facts.get("num_classes")
        if last.epoch > epochs + (last.stopped is not None):
            raise UserError(f"{self.path / 'metrics.jsonl'} has {last.epoch} epochs, and recipe.yaml says {epochs}")
        counts = last.prototype_counts
        if counts is not None and classes not in (None, len(counts)):
            raise UserError(f"{self.path / 'metrics.jsonl'} is of {len(counts)} classes, and run.json of {classes}")
        return lines

    @property
    def epochs(self) -> list[Epoch]:
        """`metrics` without an epoch that its method took back."""
        return [line for line in self.metrics if line.stopped is None]

    @property
    def progress(self) -> str:
        """How many epochs of how many are done."""
        return f"{self.epochs[-1].epoch if self.epochs else 0} of {self.choices.get('epochs', '?')}"

    @property
    def state(self) -> str:
        """What became of training, where that is not its regular end."""
        return "stopped early" if len(self.epochs) < len(self.metrics) else "" if self.complete else "not finished"

    @property
    def prototype_counts(self) -> list[tuple[int, list[int]]]:
        """(epoch, prototypes of each class in use); in earlier records, those that were left."""
        counts = [(line.epoch, line.in_use or line.prototype_counts) for line in self.metrics]
        return [(epoch, own) for epoch, own in counts if own is not None]

    @property
    def held_by_one(self) -> dict[int, float]:
        """Classes of several prototypes, not tied to modes, of which one takes over 90 % at the end, with its share."""
        choice = self.choices.get("regularizer")
        given = choice.get("init_args", {}) if isinstance(choice, dict) else {}
        usage = self.metrics[-1].usage if self.metrics and not given.get("tied") else None
        largest = [max(own, default=0.0) for own in usage or []]
        begun = given.get("prototypes_per_class", 1)
        counts = begun if isinstance(begun, list) and len(begun) == len(largest) else [begun] * len(largest)
        return {number: share for number, share in enumerate(largest) if share > 0.9 and counts[number] > 1}

    @cached_property
    def best(self) -> Best | None:
        """The best checkpoint on held-out images."""
        found, names = read_best(self.path / "best.json"), self.facts.get("class_names")
        if found is None or names is None or names != self.facts.get("mode_names"):
            return found
        return replace(found, held_out=replace(found.held_out, grouped_by="class"))  # no modes are known

    @cached_property
    def _probe(self) -> Probe | None:
        return read_probe(self.path / "probe.json")

    @cached_property
    def probe(self) -> Probe | None:
        """What linear heads read off the present weights, where that was measured."""
        return self._probe if self._probe is not None and self.is_of(self._probe.subject) else None

    @cached_property
    def complete(self) -> bool:
        """Whether training has ended."""
        if is_whole(self.path / "last.safetensors") or self.is_record:
            return True
        there = {name: os.path.lexists(self.path / name) for name in ("checkpoints", "best.safetensors")}
        return self._ended and there == {"checkpoints": False, "best.safetensors": True}  # the last were left out

    @property
    def is_record(self) -> bool:
        """Whether the run has ended and its weights were left out; one that was interrupted has checkpoints."""
        if any(os.path.lexists(self.path / name) for name in ("checkpoints", "best.safetensors", "last.safetensors")):
            return False
        if self.evaluation is not None or not self.metrics:
            return self.evaluation is not None
        return self._ended

    @property
    def _ended(self) -> bool:
        """Whether the metrics are those of a whole run."""
        last = self.metrics[-1] if self.metrics else None
        return last is not None and (last.stopped is not None or last.epoch == self.choices.get("epochs"))

    @cached_property
    def outdated(self) -> bool:
        """Whether the evaluation measured weights that training has replaced since."""
        return self.evaluation is not None and not self.is_of(self.evaluation.subject)

    def is_of(self, subject: Judged) -> bool:
        """Whether the subject of a record is the weights of this run, as far as they are there."""
        try:
            return checked_digest(self.path / subject.weights) == str(subject.sha256)
        except FileNotFoundError:
            return self.is_record

    @property
    def measuring(self) -> str:
        """The command that measures the run: an encoder pre-trained without labels has no head of its own."""
        return f"protoat evaluate {called(self.path)}{' --linear-probe' * self.pretrains}"

    @property
    def weights_name(self) -> str:
        """Name of the file of weights that count: the best on held-out images where there are such, else the last."""
        best = "best.safetensors"
        there = os.path.lexists(self.path / best) or (self.is_record and self.best is not None)
        return best if there else "last.safetensors"

    def check(self) -> None:
        """Reads all records.

        Raises:
            ValueError: one is damaged, or they contradict each other.
        """
        _ = self.choices, self.facts, self.metrics, self.best, self.evaluation, self._probe

    def warn_of_damage(self) -> None:
        """Says that the last weights are there and not whole, which is why the run counts as not finished."""
        path = self.path / "last.safetensors"
        if not self.complete and os.path.lexists(path):
            logger.warning("%s is damaged; the command that trained it writes it again", path)
