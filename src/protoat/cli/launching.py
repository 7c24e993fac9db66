"""Options and progress shared by the commands that launch many runs (table, figure)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse import Namespace

from protoat.errors import UserError
from protoat.paper.budget import budget_names
from protoat.recipes.parser import Parser

if TYPE_CHECKING:
    from protoat.paper.job import Task
    from protoat.paper.launch import Failure

logger = logging.getLogger(__name__)

OPTIONS = ("budget", "store", "jobs", "executor", "executor_options", "dry_run")


def add_options(parser: Parser) -> None:
    """Adds `OPTIONS`."""
    parser.add_argument(
        "--budget",
        type=str,
        default="smoke",
        help=f"how long runs are: {', '.join(budget_names())}, or a YAML file of the same form; default smoke, which "
        "takes seconds for each run, needs no data and is no result",
    )
    parser.add_argument("--store", type=Path, default=Path("runs"), help="folder of the runs; default runs")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--executor", type=Literal["local", "slurm"], default="local", help="where they run")
    parser.add_argument(
        "--executor-options", nargs="+", type=str, default=[], metavar="KEY=VALUE", help="for Slurm, as for sbatch"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="do no runs; print what is there, and the commands that do the rest"
    )
    parser.add_trust()


def check_options(options: Namespace) -> None:
    """Refuses options that no launch could follow, also where none will be needed.

    Raises:
        ValueError: an executor's option that is no KEY=VALUE; see `protoat.paper.launch.check_launch`.
    """
    from protoat.paper.launch import check_launch  # torch takes seconds to import, and bad names do without

    check_launch(options.executor, options.jobs, _pairs(options.executor_options))


def launched(tasks: Sequence[Task], options: Namespace) -> list[Failure]:
    """Does what is missing of the tasks as the options say.

    Raises:
        ValueError: see `protoat.paper.launch.launch`.
        Interrupted: see there.
    """
    from protoat.paper.launch import launch  # torch takes seconds to import, and bad names are refused without

    pairs = _pairs(options.executor_options)
    return launch(tasks, options.store, executor=options.executor, jobs=options.jobs, options=pairs)


def say_failed(failures: Sequence[Failure]) -> None:
    """A line for each; last, so that what succeeded does not scroll it away."""
    for failure in failures:
        logger.error("%s failed: %s", failure.task.job.name, failure.error)


def _pairs(options: Sequence[str]) -> dict[str, str]:
    """What KEY=VALUE options say."""
    for option in options:
        if "=" not in option:
            raise UserError(f"--executor-options {option!r}: write KEY=VALUE, such as partition=gpu")
    return dict(option.split("=", 1) for option in options)
