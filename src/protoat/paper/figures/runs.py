"""The runs that a figure needs when it is given none."""

from __future__ import annotations

from collections.abc import Sequence

from protoat.evaluation import attack_of_name
from protoat.paper.budget import Budget
from protoat.paper.job import Task
from protoat.paper.rows import CIFAR10_2, MNIST_2, OURS, PGD, ROCL, TLA, Data, Setup, with_prototypes
from protoat.plots.subject import check_classes
from protoat.runs.images import load_images
from protoat.runs.named_attacks import check_one_attack

SWEPT_PROTOTYPES = (1, 2, 3, 5, 10)
_RADII = (0.25, 0.5, 0.75, 1.5)
_STEPS = (2, 5, 10, 20, 50, 100)


def plain(budget: Budget, *setups: Setup) -> list[Task]:
    """MNIST-2, trained as `setups` say."""
    return [_task(setup, MNIST_2, budget) for setup in setups]


def eps_sweep(budget: Budget) -> list[Task]:
    """MNIST-2, attacked at several radii: shares of that of its recipe, and beyond."""
    found = []
    for task in plain(budget, PGD, OURS):
        eps = task.job.recipe.threat.eps
        radii = [f"pgd10@{share * eps:.4g}" for share in _RADII if share * eps <= 1]
        found.append(Task(task.job, (*task.attacks, *radii), task.images))
    return found


def steps_sweep(budget: Budget) -> list[Task]:
    """MNIST-2, attacked with several numbers of steps."""
    attacks = ("clean", *(f"pgd{steps}" for steps in _STEPS))
    return [Task(task.job, attacks, task.images) for task in plain(budget, PGD, OURS)]


def prototype_sweep(budget: Budget, attack: str = "pgd10") -> list[Task]:
    """CIFAR10-2 with several numbers of prototypes for each class, which never merge, under an attack.

    Raises:
        ValueError: an attack that no record could hold under this name, before anything is trained for it.
    """
    tasks = [_task(with_prototypes(number, number), CIFAR10_2, budget) for number in SWEPT_PROTOTYPES]
    if not attack.startswith("adaptive-"):
        attack_of_name(attack, tasks[0].job.recipe.threat)  # a record calls others after their class
    return [Task(task.job, ("clean", attack), task.images) for task in tasks]


def retrieval_runs(budget: Budget) -> list[Task]:
    """CIFAR10-2 by PGD-AT, TLA, RoCL (pre-trained and finetuned) and multi-prototype training, as in Figure 4."""
    return [_task(setup, CIFAR10_2, budget) for setup in (PGD, TLA, ROCL, OURS)]


def viewed(tasks: list[Task], attack: str, classes: Sequence[str] | None = None) -> list[Task]:
    """These tasks, whose runs a figure will show under an attack, and images of these classes only.

    Raises:
        ValueError: it could not, as far as can be told before anything is trained; classes where test images are there.
    """
    for job in (task.job for task in tasks):
        check_one_attack(attack, job.name, job.recipe)
        if classes is not None and job.recipe.data.available():
            check_classes(classes, load_images(job.recipe, "test"))
    return tasks


def _task(setup: Setup, data: Data, budget: Budget) -> Task:
    return Task(setup.job(data, budget, seed=0), ("clean", "pgd10"), budget.images)
