"""``protoat table``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from protoat.experiments.budget import budget_names, read_budget
from protoat.experiments.launch import launch
from protoat.experiments.parser import Parser
from protoat.experiments.store import write
from protoat.reports.latex import to_latex
from protoat.reports.markdown import to_markdown
from protoat.reports.raw import to_csv
from protoat.reports.sheets import document
from protoat.reports.terminal import show, to_terminal
from protoat.tables import table_numbers, table_of
from protoat.tables.fill import Filled, filled

__all__ = ["main"]

logger = logging.getLogger(__name__)


def main(args: list[str]) -> int:
    """Does the runs that a table needs and are missing, and prints the paper's numbers beside ours; 1 if one failed."""
    options = _parser().parse_args(args)
    if options.number is None:
        for number in table_numbers():
            print(f"protoat table {number}   {table_of(number).title}")
        return 0
    chosen = {"rows": options.rows, "columns": options.columns}
    table = filled(
        table_of(options.number), read_budget(options.budget), seeds=options.seeds, store=options.store, **chosen
    )
    failures = []
    if not options.dry_run:
        pairs = _pairs(options.executor_options)
        failures = launch(table.tasks(), options.store, executor=options.executor, jobs=options.jobs, options=pairs)
    _print(options.number, table, options.format, options.out)
    for failure in failures:
        logger.error("%s failed: %s", failure.task.job.name, failure.error)
    return 1 if failures else 0


def _parser() -> Parser:
    parser = Parser("protoat table")
    parser.add_argument("number", nargs="?", type=int | None, help="of the table; without it, all tables are listed")
    parser.add_argument(
        "--budget",
        type=str,
        default="smoke",
        help=f"how long runs are: {', '.join(budget_names())}, or a YAML file of the same form; default smoke, which "
        "takes seconds for each run, needs no data and is no result",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="train each row so many times; default 0")
    parser.add_argument("--store", type=Path, default=Path("runs"), help="folder of the runs; default runs")
    parser.add_argument("--rows", nargs="+", type=str, default=[], help="only these, by heading or name, such as ours")
    parser.add_argument("--columns", nargs="+", type=str, default=[], help="only these, by heading, data set or attack")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--executor", type=Literal["local", "slurm"], default="local", help="where they run")
    parser.add_argument(
        "--executor-options", nargs="+", type=str, default=[], metavar="KEY=VALUE", help="for Slurm, as for sbatch"
    )
    parser.add_argument("--format", type=Literal["terminal", "markdown", "latex", "csv"], default="terminal")
    parser.add_argument("--out", type=Path | None, help="write it to this file")
    parser.add_argument(
        "--dry-run", action="store_true", help="do no runs; print what is there, and the commands that do the rest"
    )
    return parser


def _print(number: int, table: Filled, form: str, out: Path | None) -> None:
    if form == "terminal" and out is None:
        show(document(number, table))
        return
    text = to_csv(number, table) if form == "csv" else _FORMATS[form](document(number, table))
    if out is None:
        print(text, end="")
        return
    write(out, text)
    print(f"table {number} is in {out}")


def _pairs(options: Sequence[str]) -> dict[str, str]:
    """What KEY=VALUE options say."""
    for option in options:
        if "=" not in option:
            raise ValueError(f"--executor-options {option!r}: write KEY=VALUE, such as partition=gpu")
    return dict(option.split("=", 1) for option in options)


_FORMATS = {"terminal": to_terminal, "markdown": to_markdown, "latex": to_latex}
