"""Carries out one task: trains, resumes, measures and audits what is missing."""

from __future__ import annotations

import json
from pathlib import Path

from protoat.errors import UserError, on_disk
from protoat.paper.find_record import AUDITED, find_record, is_audited, missing_attacks
from protoat.paper.job import Job, Task
from protoat.recipes.own_code import trusting
from protoat.recipes.reading import read_recipe
from protoat.runs.audit import audit_subject
from protoat.runs.measure import measure
from protoat.runs.run import Run
from protoat.runs.store import write_record
from protoat.runs.train import train
from protoat.storage.files import make_folder
from protoat.storage.locks import locked, working_on


def finished(task: Task, store: Path) -> Run | None:
    """The run of a task, when its records hold all the task asks for; see `protoat.paper.find_record`.

    A store of records without weights will do. Where a folder has several evaluations, the `Run` has the one that
    holds all.

    Raises:
        ValueError: a damaged record, or an attack that cannot be.
    """
    folder = task.job.folder(store)
    if not (folder / "recipe.yaml").exists():
        return None
    run = Run(folder)
    run.check()
    if not run.complete or "num_classes" not in run.facts:
        return None
    if task.attacks:
        record = find_record(task, run)
        if record is None:
            return None
        run = run.with_evaluation(record)
    return None if task.audit and not is_audited(task, run) else run


def run_task(task: Task, store: Path) -> Run:
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
        run_task(Task(job.start), store)
    locks = store / ".locks"
    with on_disk(f"make {locks}"):
        make_folder(locks, within=store)
    # One process does a run, whatever its tables call it; and what is done by hand there comes to its end first.
    with (
        locked(locks / f"{job.identity}.lock", job.name, wait=True),
        working_on(job.folder(store), wait=True),
    ):
        done = finished(task, store)
        if done is not None:
            return done
        folder = _trained(job, store)
        with trusting(job.trust):
            _measure(task, folder)
        done = finished(task, store)
    assert done is not None, f"{folder} does not hold what was measured"
    return done


def _trained(job: Job, store: Path) -> Path:
    """The folder of the run, trained to its end."""
    folder = job.folder(store)
    if (folder / "recipe.yaml").exists():
        run = Run(folder)
        run.check()
        if run.is_record:
            raise UserError(
                f"{folder} is a record without weights, so nothing can be added to it; name another store, where the "
                "run is done anew"
            )
        if run.complete:
            if not (folder / "job.json").exists():  # a kill came just before it
                _write_job(job, folder)
            return folder
    recipe = job.recipe if job.start is None else read_recipe(job.config, job.started(store))
    try:
        train(recipe, folder)
    finally:
        if (folder / "recipe.yaml").exists():
            _write_job(job, folder)
    return folder


def _write_job(job: Job, folder: Path) -> None:
    """Says in the folder which job its run is of."""
    start = None if job.start is None else job.start.identity
    content = {"name": job.name, "args": job.arguments, "identity": job.identity, "start": start}
    write_record(folder / "job.json", json.dumps(content, indent=1))


def _measure(task: Task, folder: Path) -> None:
    """Measures and audits what is missing."""
    run = Run(folder)
    missing = missing_attacks(task, run)
    if not missing and (not task.audit or is_audited(task, run)):
        return
    subject = run.subject()
    if missing:
        measure(subject, missing, limit=task.images)
    if task.audit:
        audit_subject(subject, images=min(task.images or AUDITED, AUDITED), only=task.checks)
