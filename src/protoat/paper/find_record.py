"""Finds the record of a run that answers a task.

Those of the weights that count (`Run.weights_name`), on the recipe's test images, at the radius of its evaluation, of
attacks with the very parameters that their names stand for now, without passes in bfloat16, on as many images as the
task asks for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from protoat.attacks import AutoAttack
from protoat.errors import UserError
from protoat.evaluation.masking_audit import NOT_ASKED
from protoat.evaluation.masking_audit.check import NO_RECORD
from protoat.evaluation.record import Evaluation, Judged
from protoat.paper.job import Job, Task
from protoat.runs.images import load_images
from protoat.runs.named_attacks import named_attacks
from protoat.runs.run import Run
from protoat.runs.subject import blank_subject
from protoat.storage.parsing import parse_yaml

AUDITED = 1000  # images of an audit, where a task asks for no fewer


def find_record(task: Task, run: Run) -> Evaluation | None:
    """The evaluation that holds every attack of a task, on as many images or else on the fewest that are enough.

    So cells of one row, which ask for an attack each, are read off one evaluation where one holds all.

    Raises:
        ValueError: a damaged record, or an attack that cannot be.
    """
    enough = [
        record
        for record in _evaluations(task.job, run)
        if record.subject.images >= _wanted(task.images, task.job, record.test_images)
        and all(_holds(task.job, run, record, name) for name in task.attacks)
    ]
    return min(enough, key=lambda record: record.subject.images, default=None)


def missing_attacks(task: Task, run: Run) -> list[str]:
    """The attacks of a task that no evaluation on just as many images holds, so that they are to be measured.

    Raises:
        ValueError: see `find_record`.
    """
    alike = [
        record
        for record in _evaluations(task.job, run)
        if record.subject.images == _wanted(task.images, task.job, record.test_images)
    ]
    return [name for name in task.attacks if not any(_holds(task.job, run, record, name) for record in alike)]


def is_audited(task: Task, run: Run) -> bool:
    """Whether the audit of a run was asked for all checks of a task, on as many images, after its evaluation.

    Of a run whose weights were left out, an audit that came before the evaluation is taken: it cannot be made again.
    """
    audit = run.audit
    if audit is None or audit.subject is None or not _is_of(task.job, run, audit.subject):
        return False
    if audit.images < _wanted(min(task.images or AUDITED, AUDITED), task.job, audit.test_images):
        return False
    wanted = {check.id for check in audit.checks} if task.checks is None else set(task.checks)
    asked = {check.id for check in audit.checks if check.reason != NOT_ASKED}
    early = {check.id for check in audit.checks if check.reason == NO_RECORD}
    evaluations = _evaluations(task.job, run)
    same = not evaluations or audit.subject.sha256 in {record.subject.sha256 for record in evaluations}
    late = bool(evaluations) and not run.is_record
    return same and wanted <= asked and not (late and wanted & early)


def _evaluations(job: Job, run: Run) -> list[Evaluation]:
    return [record for record in run.evaluations if _is_of(job, run, record.subject)]


def _is_of(job: Job, run: Run, subject: Judged) -> bool:
    """Whether a record is of the weights that count, the recipe's radius and, where they are there, its images."""
    threat = job.recipe.evaluation_threat or job.recipe.threat
    there = _test_images(job)
    return (
        not subject.more  # of another model, another head or another normalisation
        and subject.weights == run.weights_name
        and subject.threat == threat
        and (there is None or subject.data_sha256 == there.sha256)
        and run.is_of(subject)
    )


def _wanted(images: int | None, job: Job, test_images: int | None) -> float:
    """How many images are asked for, where all there are may be fewer."""
    there = _test_images(job)
    known = (None if there is None else there.number) if test_images is None else test_images
    return min((number for number in (images, known) if number is not None), default=math.inf)


class _Images(NamedTuple):
    sha256: str
    number: int


_KNOWN: dict[str, _Images | None] = {}  # by what of a recipe says which images there are


@lru_cache(maxsize=4096)
def _test_images(job: Job) -> _Images | None:
    """The test images, None where they are not there; damage is reported when they are measured."""
    content = parse_yaml(job.recipe.text)
    choice = json.dumps([content["data"], content["groups"]])
    if choice not in _KNOWN:
        _KNOWN[choice] = None
        if job.recipe.data.available():
            with suppress(UserError):
                data = load_images(job.recipe, "test")
                _KNOWN[choice] = _Images(data.digest(), len(data))
    return _KNOWN[choice]


def _holds(job: Job, run: Run, record: Evaluation, name: str) -> bool:
    """Whether an evaluation holds the attacks of a name, as they are now."""
    recorded = record.attacks
    return all(
        key in recorded
        and "precision" not in recorded[key].parameters  # which is told where passes are not float32
        and _agree(recorded[key].parameters, parameters)
        for key, parameters in _expected(name, job, run.facts["num_classes"]).items()
    )


def _agree(one: Any, other: Any) -> bool:
    """Whether parameters are equal in all that both name: a later version may have more of them."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return all(_agree(one[key], other[key]) for key in one.keys() & other.keys())
    return bool(one == other)


@lru_cache(maxsize=4096)
def _expected(name: str, job: Job, classes: int) -> Mapping[str, Any]:
    """What an evaluation calls the attacks of a name, with their parameters.

    AutoAttack has versions, ``adaptive`` is four attacks. Only the surrogate run knows a transfer attack's parameters.
    """
    if name.startswith("transfer:"):
        return {name: {}}
    recipe = job.recipe
    with torch.random.fork_rng():
        regularizer = None if recipe.regularizer is None else recipe.regularizer(classes, 2)
    attacks = named_attacks([name], blank_subject(job.name, recipe, classes, regularizer))
    for attack in attacks.values():
        if isinstance(attack, AutoAttack):
            attack.num_classes = classes  # says which parts it has
    parameters = {key: {"attack": None} if attack is None else attack.parameters() for key, attack in attacks.items()}
    return dict(json.loads(json.dumps(parameters)))
