"""Does what a table or figure needs and is not done yet: trains, resumes, measures, audits; nothing twice."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from protoat.data import DataNotFoundError, ImageData
from protoat.evaluation.masking_audit import NOT_ASKED
from protoat.experiments.audit import audit_subject
from protoat.experiments.job import Job, Task
from protoat.experiments.measure import measure, read_records
from protoat.experiments.named_attacks import named_attacks
from protoat.experiments.recipe import resolve, shared_parser
from protoat.experiments.run import load_images, train
from protoat.experiments.store import StoredRun, locked, read_run, write
from protoat.experiments.subject import Subject, subject_of_run

__all__ = ["carry_out", "finished"]

logger = logging.getLogger(__name__)

_AUDITED = 1000


def finished(task: Task, store: Path) -> StoredRun | None:
    """The run of a task, when its record holds all the task asks for.

    A store of records without weights will do. Where a folder has several evaluations, on other numbers of images, the
    `StoredRun` has the one that answers.

    Raises:
        ValueError: a damaged record, or an attack that cannot be.
    """
    folder = task.job.folder(store)
    if not (folder / "recipe.yaml").exists():
        return None
    run = read_run(folder)
    if not run.complete or "num_classes" not in run.facts:
        return None
    if task.attacks:
        record = next((found for found in _records(task.job, run) if _answers(task, run, found)), None)
        if record is None:
            return None
        run = replace(run, evaluation=record)
    return None if task.audit and not _audited(task, run) else run


def carry_out(task: Task, store: Path) -> StoredRun:
    """Trains or resumes, measures and audits what is missing; first the run it starts from.

    Another process that does the same run is waited for, and what it has done is taken.

    Raises:
        ValueError: choices that do not fit, or a record without weights that does not hold all.
        DataNotFoundError: the data is not there.
        NonFiniteLossError, CheckpointError, DiskError, Interrupted: see `protoat.fit`.
    """
    done = finished(task, store)
    if done is not None:
        return done
    job = task.job
    if job.start is not None:
        carry_out(Task(job.start), store)
    with locked(store / ".locks" / f"{job.identity}.lock", job.name):
        done = finished(task, store)
        if done is not None:
            return done
        folder = _trained(job, store)
        _measure(task, folder)
        done = finished(task, store)
    assert done is not None, f"{folder} does not hold what was measured"
    return done


def _trained(job: Job, store: Path) -> Path:
    """The folder of the run, trained to its end."""
    folder = job.folder(store)
    if (folder / "recipe.yaml").exists():
        run = read_run(folder)
        if run.is_record:
            raise ValueError(
                f"{folder} is a record without weights, so nothing can be added to it; name another --store, where the "
                "run is done anew"
            )
        if run.complete:
            return folder
    recipe = job.recipe if job.start is None else resolve(shared_parser(), job.arguments(store))[0]
    try:
        train(recipe, folder)
    finally:
        if (folder / "recipe.yaml").exists():
            start = None if job.start is None else job.start.identity
            content = {"name": job.name, "args": job.args, "identity": job.identity, "start": start}
            write(folder / "job.json", json.dumps(content, indent=1))
    return folder


def _measure(task: Task, folder: Path) -> None:
    """Measures and audits what is missing."""
    run = read_run(folder)
    missing = [name for name in task.attacks if not _holds(task, run, name)]
    if not missing and (not task.audit or _audited(task, run)):
        return
    subject = subject_of_run(folder)
    if missing:
        measure(subject, missing, limit=task.images)
    if task.audit:
        audit_subject(subject, images=min(task.images or _AUDITED, _AUDITED), only=task.checks)


def _records(job: Job, run: StoredRun) -> list[dict[str, Any]]:
    """Evaluations of the run's weights under the threat model of its recipe."""
    threat = job.recipe.evaluation_threat or job.recipe.threat
    wanted = {"norm": threat.norm, "eps": threat.eps}
    found = [record for record in read_records(run.path) if record["subject"].get("threat") == wanted]
    return [record for record in found if run.is_of(record["subject"])]


def _answers(task: Task, run: StoredRun, record: Mapping[str, Any]) -> bool:
    """Whether an evaluation holds every attack of the task, on as many images."""
    names = {recorded for name in task.attacks for recorded in _recorded(name, task.job, run.facts["num_classes"])}
    return names <= record["attacks"].keys() and record["subject"]["images"] >= _wanted(task, record)


def _holds(task: Task, run: StoredRun, name: str) -> bool:
    """Whether the evaluation on just as many images holds an attack, so that it need not be measured again."""
    return any(
        _recorded(name, task.job, run.facts["num_classes"]) <= record["attacks"].keys()
        and record["subject"]["images"] == _wanted(task, record)
        for record in _records(task.job, run)
    )


def _wanted(task: Task, record: Mapping[str, Any]) -> int:
    """How many images the task asks for, where all there are may be fewer."""
    there = record.get("test_images")
    if there is None:  # written by an earlier version
        try:
            there = len(load_images(task.job.recipe, "test"))
        except DataNotFoundError:
            there = task.images or record["subject"]["images"] + 1
    return there if task.images is None else min(task.images, there)


@lru_cache(maxsize=4096)
def _recorded(name: str, job: Job, classes: int) -> frozenset[str]:
    """What an evaluation calls the attacks of a name: AutoAttack has versions, ``adaptive`` is four attacks."""
    if name.startswith("transfer:"):
        return frozenset([name])
    recipe = job.recipe
    with torch.random.fork_rng():
        regularizer = None if recipe.regularizer is None else recipe.regularizer(classes, 2)
    images = torch.zeros(classes, 1, 1, 1, dtype=torch.uint8)
    data = ImageData(images, torch.arange(classes), tuple(map(str, range(classes))))
    threat = recipe.evaluation_threat or recipe.threat
    blank = Subject(job.name, nn.Identity(), data, threat, regularizer, Path(job.name), {})
    return frozenset(named_attacks([name], blank))


def _audited(task: Task, run: StoredRun) -> bool:
    """Whether there is an audit of the run's weights that was asked for all checks of the task."""
    path = run.path / "audit.json"
    if not path.exists():
        return False
    audit = json.loads(path.read_text())
    asked = {check["id"] for check in audit["checks"] if check["reason"] != NOT_ASKED}
    wanted = {check["id"] for check in audit["checks"]} if task.checks is None else set(task.checks)
    threat = task.job.recipe.evaluation_threat or task.job.recipe.threat
    same = audit["threat"] == {"norm": threat.norm, "eps": threat.eps} and run.is_of(audit["subject"])
    return same and wanted <= asked
