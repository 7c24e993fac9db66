"""``protoat table``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from protoat.cli.launching import add_options, check_options, launched, say_failed
from protoat.cli.say import say
from protoat.errors import UserError
from protoat.paper.budget import read_budget
from protoat.paper.tables import table_numbers, table_of
from protoat.recipes.parser import Parser
from protoat.storage.path_checks import check_file, check_no_file

if TYPE_CHECKING:
    from protoat.paper.tables.fill import Filled

_FORMATS = {".md": "markdown", ".tex": "latex", ".csv": "csv"}


def main(args: list[str]) -> int:
    """Does the runs that a table needs and are missing, and prints the paper's numbers beside ours; 1 if one failed."""
    options = _parser().parse_args(args)
    if options.number is None:
        if args:
            raise UserError(
                f"{args[0]} goes with a table; write its number: {shlex.join(['protoat', 'table', '2', *args])}"
            )
        for number in table_numbers():
            say(f"protoat table {number}   {table_of(number).title}")
        return 0
    declared, chosen = table_of(options.number), {"rows": options.rows, "columns": options.columns}
    declared.chosen("rows", options.rows)  # bad names are refused here, before torch takes seconds to import
    declared.chosen("columns", options.columns)
    check_no_file(options.store, "--store")
    if options.out is not None:
        check_file(options.out)
    budget = read_budget(options.budget)

    check_options(options)

    from protoat.paper.tables.fill import filled

    table = filled(declared, budget, seeds=options.seeds, store=options.store, **chosen)
    failures = [] if options.dry_run else launched(table.tasks(), options)
    suffix = "" if options.out is None else options.out.suffix.lower()
    _print(int(options.number), table, options.format or _FORMATS.get(suffix, "terminal"), options.out)
    say_failed(failures)
    return 1 if failures else 0


def _parser() -> Parser:
    parser = Parser("protoat table")
    parser.add_argument("number", nargs="?", type=str, help="of the table; without it, all tables are listed")
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0], help="the seeds to train each row with, such as 0 1 2; default 0"
    )
    parser.add_argument("--rows", nargs="+", type=str, default=[], help="only these, by heading or name, such as ours")
    parser.add_argument(
        "--columns",
        nargs="+",
        type=str,
        default=[],
        help="only these, by data set, and by heading or attack; MNIST PGD10: those of MNIST that are PGD10",
    )
    add_options(parser)
    parser.add_argument(
        "--format",
        type=Literal["terminal", "markdown", "latex", "csv"] | None,
        help="default: what the name of --out ends in (.md, .tex, .csv), else terminal",
    )
    parser.add_argument("--out", type=Path | None, help="write it to this file")
    return parser


def _print(number: int, table: Filled, form: str, out: Path | None) -> None:
    from protoat.paper.render.csv import to_csv
    from protoat.paper.render.document import document
    from protoat.paper.render.latex import to_latex
    from protoat.paper.render.markdown import to_markdown
    from protoat.paper.render.terminal import show, to_terminal
    from protoat.runs.store import write

    if form == "terminal" and out is None:
        show(document(number, table))
        return
    formats = {"terminal": to_terminal, "markdown": to_markdown, "latex": to_latex}
    text = to_csv(number, table) if form == "csv" else formats[form](document(number, table))
    if out is None:
        say(text, end="", lines=True)
        return
    write(out, text)
    say(f"table {number} is in {out}")
