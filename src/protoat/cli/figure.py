"""``protoat figure``."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from jsonargparse import Namespace

from protoat.experiments.budget import Budget, budget_names, read_budget
from protoat.experiments.job import Task
from protoat.experiments.laboratory import finished
from protoat.experiments.launch import launch
from protoat.experiments.parser import Parser, nearest
from protoat.experiments.store import write
from protoat.figures import FIGURES, View
from protoat.figures.page import page

__all__ = ["main"]

logger = logging.getLogger(__name__)


def main(args: list[str]) -> int:
    """Draws a figure from runs, or first does the runs it needs; 1 where one of these failed."""
    options = _parser().parse_args(args)
    if options.name is None:
        for name, drawing in FIGURES.items():
            print(f"protoat figure {name:<12} {drawing.title}")
        return 0
    if options.name not in FIGURES:
        raise ValueError(f"figure {options.name!r} is unknown; {nearest(options.name, FIGURES)}")
    drawing, failed = FIGURES[options.name], False
    view = View(options.images or None, options.attack)
    if options.runs:
        parts = drawing.draw(options.runs, view)
        lines = ["Runs as they were given; their recipes say how they were trained.", _named(options.runs)]
    else:
        budget = read_budget(options.budget)
        tasks, lines = drawing.tasks(budget), _about(budget, options)
        if drawing.planned is not None:
            parts = drawing.planned(tasks)
        else:
            runs, failed = _done(tasks, options)
            parts, lines = drawing.draw(runs, view), [*lines, _named(runs)]
    out = options.out or Path(f"figure-{options.name}.html")
    write(out, page(drawing.title, lines, parts))
    print(f"figure {options.name} is in {out}")
    return int(failed)


def _named(runs: Sequence[Path]) -> str:
    return f"Runs: {', '.join(map(str, runs))}."


def _parser() -> Parser:
    parser = Parser("protoat figure")
    parser.add_argument("name", nargs="?", type=str | None, help="of the figure; without it, all figures are listed")
    parser.add_argument(
        "runs", nargs="*", type=Path, metavar="RUN", help="draw from these; without them, the runs it needs are done"
    )
    parser.add_argument(
        "--budget",
        type=str,
        default="smoke",
        help=f"how long these runs are: {', '.join(budget_names())}, or a YAML file of the same form; default smoke, "
        "which takes seconds for each run, needs no data and is no result",
    )
    parser.add_argument("--store", type=Path, default=Path("runs"), help="folder of these runs; default runs")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--executor", type=Literal["local", "slurm"], default="local", help="where they run")
    parser.add_argument("--images", type=int, default=1000, help="test images that it looks at; 0 for all")
    parser.add_argument("--attack", type=str, default="pgd10", help="attack that it shows, as for protoat evaluate")
    parser.add_argument("--out", type=Path | None, help="HTML file; default figure-NAME.html")
    return parser


def _done(tasks: Sequence[Task], options: Namespace) -> tuple[list[Path], bool]:
    """Folders of the tasks that are done now, and whether one failed.

    Raises:
        ValueError: all of them failed.
    """
    failures = launch(tasks, options.store, executor=options.executor, jobs=options.jobs)
    for failure in failures:
        logger.error("%s failed: %s", failure.task.job.name, failure.error)
    done = [task.job.folder(options.store) for task in tasks if finished(task, options.store) is not None]
    if not done:
        raise ValueError(f"none of the {len(tasks)} runs that figure {options.name} needs could be done; see above")
    return done, bool(failures)


def _about(budget: Budget, options: Namespace) -> list[str]:
    measured = "all" if budget.images is None else str(budget.images)
    lines = [f"Budget {budget.name}: {budget.about}; {measured} test images measured."]
    if not budget.reproduction:
        lines.append("Runs of this budget are not those of the paper, so this is no reproduction of its figure.")
    return [*lines, f"Drawn by: {shlex.join(['protoat', 'figure', options.name, '--budget', options.budget])}"]
