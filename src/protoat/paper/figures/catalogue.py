"""All figures by name: the runs each needs when it is given none, and how it is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from protoat.evaluation.record import Evaluation
from protoat.paper.budget import Budget
from protoat.paper.figures.framework import framework, framework_of_recipe
from protoat.paper.figures.number_of_prototypes import accuracy_against_prototypes
from protoat.paper.figures.runs import eps_sweep, plain, prototype_sweep, retrieval_runs, steps_sweep, viewed
from protoat.paper.job import Task
from protoat.paper.rows import OURS, PGD
from protoat.plots.curves import training_curves
from protoat.plots.gallery import attacked_images
from protoat.plots.map import embedding_map
from protoat.plots.modes import accuracy_of_modes
from protoat.plots.pictures import Pictures
from protoat.plots.plot import Plot
from protoat.plots.prototypes import nearest_images, prototype_counts, prototype_usage, usage_over_time
from protoat.plots.retrieval import retrieved_images
from protoat.plots.sweeps import accuracy_against_eps, accuracy_against_steps
from protoat.plots.transitions import agreement_map, transition_map


class View(NamedTuple):
    """What a figure looks at; `Drawing.takes` says which of it matters.

    Attributes:
        images: test images, a share of each mode, where it is computed from weights; None takes all.
        attack: name as for ``protoat evaluate``.
        classes: images of these only; None takes all.
        records: evaluations of runs that are drawn in place of their ``evaluation.json``.
    """

    images: int | None = 1000
    attack: str = "pgd10"
    classes: tuple[str, ...] | None = None
    records: Mapping[Path, Evaluation] | None = None


@dataclass(frozen=True)
class Drawing:
    """A figure.

    Attributes:
        draw: run folders -> its parts.
        tasks: the runs it needs when it is given none.
        takes: fields of `View`, besides `records`, that the figure uses.
        planned: draws from the recipes of these runs, which then need not be done.
    """

    draw: Callable[[Sequence[Path], View], list[Plot | Pictures]]
    tasks: Callable[[Budget, View], list[Task]]
    takes: tuple[str, ...] = ()
    planned: Callable[[Sequence[Task]], list[Plot | Pictures]] | None = None


def _each(one: Callable[[Path, View], Plot | Pictures]) -> Callable[[Sequence[Path], View], list[Plot | Pictures]]:
    """A figure of a single run, drawn for each."""
    return lambda runs, view: [one(run, view) for run in runs]


def _map(run: Path, view: View) -> Plot:
    return embedding_map(run, images=view.images, attack=view.attack, classes=view.classes)


FIGURES: dict[str, Drawing] = {
    "1": Drawing(
        _each(_map),
        lambda budget, view: viewed(plain(budget, PGD), view.attack, view.classes),
        ("images", "attack", "classes"),
    ),
    "2": Drawing(
        _each(lambda run, view: framework(run)),
        lambda budget, view: retrieval_runs(budget)[-1:],
        planned=lambda tasks: [framework_of_recipe(task.job.recipe, task.job.name) for task in tasks],
    ),
    "3": Drawing(
        lambda runs, view: [accuracy_against_prototypes(runs, attack=view.attack, records=view.records)],
        lambda budget, view: prototype_sweep(budget, view.attack),
        ("attack",),
    ),
    "4": Drawing(
        lambda runs, view: [retrieved_images(runs, images=view.images, attack=view.attack).pictures],
        lambda budget, view: viewed(retrieval_runs(budget), view.attack),
        ("images", "attack"),
    ),
    "modes": Drawing(
        lambda runs, view: [accuracy_of_modes(runs, records=view.records)],
        lambda budget, view: plain(budget, PGD, OURS),
    ),
    "gallery": Drawing(
        _each(lambda run, view: attacked_images(run, images=view.images, attack=view.attack)),
        lambda budget, view: viewed(plain(budget, OURS), view.attack),
        ("images", "attack"),
    ),
    "prototypes": Drawing(
        _each(lambda run, view: prototype_counts(run)),
        lambda budget, view: plain(budget, OURS),
    ),
    "usage": Drawing(
        _each(lambda run, view: prototype_usage(run, images=view.images)),
        lambda budget, view: plain(budget, OURS),
        ("images",),
    ),
    "usage-over-time": Drawing(
        _each(lambda run, view: usage_over_time(run)),
        lambda budget, view: plain(budget, OURS),
    ),
    "agreement": Drawing(
        _each(lambda run, view: agreement_map(run, images=view.images)),
        lambda budget, view: plain(budget, OURS),
        ("images",),
    ),
    "nearest": Drawing(
        _each(lambda run, view: nearest_images(run, images=view.images)),
        lambda budget, view: plain(budget, OURS),
        ("images",),
    ),
    "transitions": Drawing(
        _each(lambda run, view: transition_map(run, images=view.images, attack=view.attack)),
        lambda budget, view: viewed(plain(budget, PGD, OURS), view.attack),
        ("images", "attack"),
    ),
    "eps": Drawing(
        lambda runs, view: [accuracy_against_eps(runs, records=view.records)],
        lambda budget, view: eps_sweep(budget),
    ),
    "steps": Drawing(
        lambda runs, view: [accuracy_against_steps(runs, records=view.records)],
        lambda budget, view: steps_sweep(budget),
    ),
    "curves": Drawing(
        lambda runs, view: [training_curves(runs)],
        lambda budget, view: plain(budget, PGD, OURS),
    ),
}
