"""``protoat figure``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from protoat.cli.launching import OPTIONS, add_options, check_options, launched, say_failed
from protoat.cli.say import say
from protoat.errors import UserError
from protoat.names import nearest
from protoat.paper.budget import Budget, read_budget
from protoat.paper.figures import TITLES
from protoat.recipes.parser import Parser
from protoat.runs.claims import A_RUN, called, find_run
from protoat.storage.path_checks import check_file, check_no_file

if TYPE_CHECKING:
    from protoat.paper.figures.catalogue import Drawing
    from protoat.paper.job import Task
    from protoat.plots.pictures import Pictures
    from protoat.plots.plot import Plot
    from protoat.runs.run import Run

_OF_VIEW = ("images", "attack", "classes")
_SUFFIXES = (".pdf", ".svg", ".png")


def main(args: list[str]) -> int:
    """Draws a figure from runs, or first does the runs it needs; 1 where one of these failed."""
    parser = _parser()
    options = parser.parse_args(args)
    if options.name is None:
        if args:
            raise UserError(
                f"{args[0]} goes with a figure; write its name: {shlex.join(['protoat', 'figure', '1', *args])}"
            )
        for name, title in TITLES.items():
            say(f"protoat figure {name:<{max(map(len, TITLES))}} {title}")
        return 0
    if options.name not in TITLES:
        raise UserError(f"figure {options.name!r} is unknown; {nearest(options.name, TITLES)}")
    out = options.out or Path(f"figure-{options.name}.html")
    check_file(out)
    if out.suffix.lower() not in (".html", *_SUFFIXES):
        raise UserError(f"--out {out} has to end in .html, .pdf, .svg or .png")
    check_no_file(options.store, "--store")
    budget = read_budget(options.budget)

    from protoat.paper.figures.catalogue import FIGURES, View  # torch takes seconds, and bad names need none

    drawing, failed = FIGURES[options.name], False
    parts: list[Plot | Pictures]
    _check(drawing, options, given=parser.parse_args(args, defaults=False))
    view = View(options.images or None, options.attack, tuple(options.classes) or None)
    lines = [f"Drawn by: {shlex.join(['protoat', 'figure', *args])}"]
    if options.runs:
        folders = list(map(find_run, options.runs))
        parts = drawing.parts(folders, view)
        lines = ["Runs as they were given.", *lines, *map(_about_run, folders)]
    else:
        tasks, lines = drawing.needed(budget, view), [*_about(budget), *lines]
        if options.dry_run:
            _print_plan(options.name, [] if drawing.planned is not None else tasks, options.store)
            return 0
        if drawing.planned is not None:
            parts = [drawing.planned(task.job.recipe, task.job.name) for task in tasks]
        else:
            runs, failed = _done(tasks, options)
            folders = [run.path for run in runs]
            records = {run.path: run.evaluation for run in runs if run.evaluation is not None}
            parts, lines = drawing.parts(folders, view._replace(records=records)), [*lines, *map(_about_run, folders)]
    _write(out, TITLES[options.name], lines, parts)
    say(f"figure {options.name} is in {out}")
    return int(failed)


def _write(out: Path, title: str, lines: Sequence[str], parts: Sequence[Plot | Pictures]) -> None:
    """Writes the figure alone, for a paper, or on a page that says how it was made."""
    from protoat.plots.plot import Plot, as_file
    from protoat.reports.blocks import Chart, Gallery, Section
    from protoat.reports.page import Chapter, render
    from protoat.runs.store import write

    if (kind := out.suffix.lower()) in _SUFFIXES:
        write(out, as_file([part if isinstance(part, Plot) else part.plot() for part in parts], kind))
        return
    title = title[:1].upper() + title[1:]
    blocks = [Chart(part, "") if isinstance(part, Plot) else Gallery(part) for part in parts]
    write(out, render(title, [Chapter("figure", title, [Section("drawn", title, blocks)])], lines))


def _about_run(folder: Path) -> str:
    """What was trained, and how, in a line; of a measurement without a run, where it is."""
    from protoat.reports.sections.summary import described, trained_for
    from protoat.runs.run import Run

    if not (folder / "recipe.yaml").exists():
        return f"Measured: {called(folder)}."
    run = Run(folder)
    told = described(run) | trained_for(run)
    return f"Run {called(folder)}: {', '.join(f'{key} {value}' for key, value in told.items())}."


def _print_plan(name: str, tasks: Sequence[Task], store: Path) -> None:
    """Which of the runs are there, and the commands that do the rest."""
    from protoat.paper.laboratory import finished

    say(f"figure {name} needs {len(tasks)} run{'s' * (len(tasks) != 1)}" + " and is drawn from recipes" * (not tasks))
    for task in tasks:
        there = finished(task, store) is not None
        say(f"done: {task.job.folder(store)}" if there else task.command(store))


def _parser() -> Parser:
    parser = Parser("protoat figure")
    parser.add_argument("name", nargs="?", type=str | None, help="of the figure; without it, all figures are listed")
    parser.add_argument(
        "runs",
        nargs="*",
        type=Path,
        metavar="RUN",
        help=f"draw from these, each {A_RUN}; without them, the runs it needs are done",
    )
    add_options(parser)
    parser.add_argument("--images", type=int, default=1000, help="test images that it looks at; 0 for all")
    parser.add_argument("--attack", type=str, default="pgd10", help="attack that it shows, as for protoat evaluate")
    parser.add_argument("--classes", nargs="+", type=str, default=[], help="images of these only, by name; default all")
    parser.add_argument(
        "--out",
        type=Path | None,
        help="an .html page, or the figure alone as .pdf, .svg, .png; default figure-NAME.html",
    )
    return parser


def _check(drawing: Drawing, options: Namespace, given: Namespace) -> None:
    """Refuses options that would change nothing."""
    idle = {key: f"figure {options.name} does not depend on it" for key in _OF_VIEW if key not in drawing.takes}
    if options.runs:
        idle |= dict.fromkeys(OPTIONS, "the runs are given")
    for key, reason in idle.items():
        if key in given:
            raise UserError(f"leave out --{key.replace('_', '-')}: {reason}")
    check_options(options)
    if options.images < 0:
        raise UserError(f"--images {options.images} is negative; write how many test images to look at, or 0 for all")


def _done(tasks: Sequence[Task], options: Namespace) -> tuple[list[Run], bool]:
    """The runs of the tasks that are done now, with the evaluation that each asks for, and whether one failed.

    Raises:
        ValueError: all of them failed.
    """
    from protoat.paper.laboratory import finished

    failures = launched(tasks, options)
    say_failed(failures)
    done = [run for task in tasks if (run := finished(task, options.store)) is not None]
    if not done:
        raise UserError(f"none of the {len(tasks)} runs that figure {options.name} needs could be done; see above")
    return done, bool(failures)


def _about(budget: Budget) -> list[str]:
    measured = "all" if budget.images is None else str(budget.images)
    lines = [f"Budget {budget.name}: {budget.about}; {measured} test images measured."]
    if not budget.reproduction:
        lines.append("Runs of this budget are not those of the paper, so this is no reproduction of its figure.")
    return lines
