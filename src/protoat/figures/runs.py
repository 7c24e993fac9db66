"""The runs that a figure needs when it is given none."""

from __future__ import annotations

from collections.abc import Sequence

from protoat.experiments.budget import Budget
from protoat.experiments.job import Job, Task

__all__ = ["SWEPT_PROTOTYPES", "eps_sweep", "plain", "prototype_sweep", "retrieval_runs", "steps_sweep"]

SWEPT_PROTOTYPES = (1, 2, 3, 5, 10)
_ALONE = ("--regularizer", "none")
_RADII = (0.25, 0.5, 0.75, 1.5)
_STEPS = (2, 5, 10, 20, 50, 100)


def plain(budget: Budget, *rows: str) -> list[Task]:
    """MNIST-2, trained as `rows` say: ``"ours"``, ``"pgd"``."""
    return [Task(_job("mnist-2", row, budget), ("clean", "pgd10"), budget.images) for row in rows]


def eps_sweep(budget: Budget) -> list[Task]:
    """MNIST-2, attacked at several radii: shares of that of its recipe, and beyond."""
    found = []
    for task in plain(budget, "pgd", "ours"):
        eps = task.job.recipe.threat.eps
        radii = [f"pgd10@{share * eps:.4g}" for share in _RADII if share * eps <= 1]
        found.append(Task(task.job, (*task.attacks, *radii), task.images))
    return found


def steps_sweep(budget: Budget) -> list[Task]:
    """MNIST-2, attacked with several numbers of steps."""
    attacks = ("clean", *(f"pgd{steps}" for steps in _STEPS))
    return [Task(task.job, attacks, task.images) for task in plain(budget, "pgd", "ours")]


def prototype_sweep(budget: Budget) -> list[Task]:
    """CIFAR10-2 with several numbers of prototypes for each class, which never merge."""
    return [
        Task(_job("cifar10-2", f"ours-{number}", budget, *_prototypes(number)), ("clean", "pgd10"), budget.images)
        for number in SWEPT_PROTOTYPES
    ]


def retrieval_runs(budget: Budget) -> list[Task]:
    """CIFAR10-2 by PGD-AT, TLA, RoCL (pre-trained and finetuned) and multi-prototype training, as in Figure 4."""
    return [
        Task(_job("cifar10-2", row, budget), ("clean", "pgd10"), budget.images)
        for row in ("pgd", "tla", "rocl", "ours")
    ]


_ROWS: dict[str, Sequence[str]] = {
    "ours": (),
    "pgd": _ALONE,
    "tla": ("--config", "tla"),
    "rocl": (*_ALONE, "--model.mean", "none", "--model.std", "none"),  # the normalisation of its encoder
}


def _prototypes(number: int) -> tuple[str, ...]:
    return ("--regularizer.prototypes_per_class", str(number), "--regularizer.merge_threshold", "0")


def _job(data: str, row: str, budget: Budget, *changes: str) -> Job:
    args = ("--config", data, *_ROWS.get(row, ()), *changes, *budget.args(data), "--seed", "0")
    start = None
    if row == "rocl":
        recipe = "cifar10-rocl"
        encoder = ("--config", recipe, *budget.args(recipe, pretrains=True), "--seed", "0")
        start = Job(f"cifar10-rocl-{budget.name}", encoder)
    return Job(f"{data}-{row}-{budget.name}-0", args, start)
