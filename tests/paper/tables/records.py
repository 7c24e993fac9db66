"""Records of runs that never were, and a table over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from protoat.evaluation import AttackReport, Count
from protoat.evaluation.record import Evaluation, Judged
from protoat.paper.budget import Budget
from protoat.paper.job import Task
from protoat.paper.rows import CIFAR10, FREE, OURS, PGD
from protoat.paper.tables.fill import Filled, filled
from protoat.paper.tables.notes import Note
from protoat.paper.tables.table import Line, Table
from protoat.records.training import Epoch
from protoat.runs.run import Run

BUDGET = Budget("mine", "a budget of tests", images=200)
TABLE = Table(
    title="Three rows",
    rows=(Line("PGD-AT", PGD), Line("Free_AT & co", FREE), Line("Ours", OURS)),
    columns=(
        Line("Clean", attack="clean"),
        Line("PGD10", attack="pgd10"),
        Line("AutoAttack", attack="aa", ours=True),
        Line("Worst mode", attack="aa", read="worst mode", ours=True),
        Line("Minutes", read="minutes"),
        Line("Overhead (%)", read="overhead", ours=True),
        Line("Prototypes", read="prototypes", ours=True),
    ),
    paper="""
        80.10 50.00 100
        81.20 40.00 -
        82.30 60.00 101
    """,
    notes=(Note("A note with 100 % & more."), Note("Of Free alone.", setups=("free",))),
    base=Line("", data=CIFAR10),
)


def entry(correct: int, total: int, attack: str, **modes: tuple[int, int]) -> AttackReport:
    """What an ``evaluation.json`` has of an attack."""
    per_mode = {name: Count(right, all_) for name, (right, all_) in modes.items()}
    return AttackReport(Count(correct, total), {}, per_mode, {"attack": attack}, torch.arange(total) < correct, 1.0)


def record(
    folder: Path, clean: int, pgd10: int, aa: int, *, seconds: float = 60.0, counts: list[int] | None = None
) -> Run:
    """A finished run of two epochs, measured on 200 images."""
    attacks = {
        "clean": entry(clean, 200, "clean"),
        "pgd10": entry(pgd10, 200, "PGD"),
        "standard": entry(aa, 200, "AutoAttack", high=(90, 100), low=(10, 100)),
    }
    metrics = [Epoch(epoch, 1.0, 0.1, seconds, prototype_counts=counts) for epoch in (1, 2)]
    evaluation = Evaluation(Judged("best.safetensors", "CIFAR10 test", 200), attacks)
    run = Run.__new__(Run)  # as one is that has been read
    read = {"_recipe_file": ("epochs: 2", {"epochs": 2}), "facts": {}, "metrics": metrics, "evaluation": evaluation}
    vars(run).update(path=folder, complete=True, **read)
    return run


Finished = Callable[[Task, Path], Run | None]


def by_name(runs: Mapping[str, Run]) -> Finished:
    """A stand-in for `protoat.paper.laboratory.finished`: a run by its name, where its records hold the task."""

    def finished(task: Task, store: Path) -> Run | None:
        run = runs.get(task.job.name)
        if run is None or (task.audit and not (run.path / "audit.json").exists()):
            return None
        if task.attacks:
            assert run.evaluation is not None
            names = {"standard" if attack == "aa" else attack for attack in task.attacks}
            enough = run.evaluation.subject.images >= (task.images or 200)
            return run if enough and names <= run.evaluation.attacks.keys() else None
        return run

    return finished


def table(store: Path, *, seeds: tuple[int, ...] = (0,), **chosen: list[str]) -> Filled:
    """The table above, from the records of a store."""
    return filled(TABLE, BUDGET, seeds=seeds, store=store, **chosen)
