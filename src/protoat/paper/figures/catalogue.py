"""All figures by name: the runs each needs when it is given none, and how it is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from protoat.evaluation.record import Evaluation
from protoat.paper.budget import Budget
from protoat.paper.figures.framework import framework, framework_of_recipe
from protoat.paper.figures.number_of_prototypes import accuracy_against_prototypes
from protoat.paper.figures.runs import eps_sweep, plain, prototype_sweep, retrieval_runs, steps_sweep, viewed
from protoat.paper.job import Task
from protoat.paper.rows import OURS, PGD, Setup
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
from protoat.recipes.recipe import Recipe


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
        draw: draws it from a run folder, or from all where it is one of several runs, and from what it takes.
        tasks: the runs it needs when it is given none.
        takes: fields of `View` that `draw` has as options.
        of_several: whether it shows several runs at once; else it is drawn of each.
        planned: draws from the recipes of these runs, which then need not be done.
    """

    draw: Callable[..., Plot | Pictures]
    tasks: Callable[[Budget, View], list[Task]]
    takes: tuple[str, ...] = ()
    of_several: bool = False
    planned: Callable[[Recipe, str], Plot] | None = None

    def parts(self, runs: Sequence[Path], view: View) -> list[Plot | Pictures]:
        """The figure, drawn from runs."""
        options = {key: getattr(view, key) for key in self.takes}
        return [self.draw(each, **options) for each in ([runs] if self.of_several else runs)]

    def needed(self, budget: Budget, view: View) -> list[Task]:
        """The runs it needs when it is given none.

        Raises:
            ValueError: they could not be shown so, as far as can be told before anything is trained.
        """
        tasks = self.tasks(budget, view)
        return viewed(tasks, view.attack, view.classes) if "attack" in self.takes else tasks


def _of(*setups: Setup) -> Callable[[Budget, View], list[Task]]:
    return lambda budget, view: plain(budget, *setups)


def _retrieved(runs: Sequence[Path], **options: Any) -> Pictures:
    return retrieved_images(runs, **options).pictures


FIGURES: dict[str, Drawing] = {
    "1": Drawing(embedding_map, _of(PGD), ("images", "attack", "classes")),
    "2": Drawing(framework, lambda budget, view: retrieval_runs(budget)[-1:], planned=framework_of_recipe),
    "3": Drawing(
        accuracy_against_prototypes,
        lambda budget, view: prototype_sweep(budget, view.attack),
        ("attack", "records"),
        of_several=True,
    ),
    "4": Drawing(_retrieved, lambda budget, view: retrieval_runs(budget), ("images", "attack"), of_several=True),
    "modes": Drawing(accuracy_of_modes, _of(PGD, OURS), ("records",), of_several=True),
    "gallery": Drawing(attacked_images, _of(OURS), ("images", "attack")),
    "prototypes": Drawing(prototype_counts, _of(OURS)),
    "usage": Drawing(prototype_usage, _of(OURS), ("images",)),
    "usage-over-time": Drawing(usage_over_time, _of(OURS)),
    "agreement": Drawing(agreement_map, _of(OURS), ("images",)),
    "nearest": Drawing(nearest_images, _of(OURS), ("images",)),
    "transitions": Drawing(transition_map, _of(PGD, OURS), ("images", "attack")),
    "eps": Drawing(accuracy_against_eps, lambda budget, view: eps_sweep(budget), ("records",), of_several=True),
    "steps": Drawing(accuracy_against_steps, lambda budget, view: steps_sweep(budget), ("records",), of_several=True),
    "curves": Drawing(training_curves, _of(PGD, OURS), of_several=True),
}
