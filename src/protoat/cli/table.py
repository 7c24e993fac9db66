"""``protoat table``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from protoat.cli.launching import add_options, launched, say_failed
from protoat.experiments.budget import read_budget
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
    failures = [] if options.dry_run else launched(table.tasks(), options)
    _print(options.number, table, options.format, options.out)
    say_failed(failures)
    return 1 if failures else 0


def _parser() -> Parser:
    parser = Parser("protoat table")
    parser.add_argument("number", nargs="?", type=int | None, help="of the table; without it, all tables are listed")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="train each row so many times; default 0")
    parser.add_argument("--rows", nargs="+", type=str, default=[], help="only these, by heading or name, such as ours")
    parser.add_argument("--columns", nargs="+", type=str, default=[], help="only these, by heading, data set or attack")
    add_options(parser)
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


_FORMATS = {"terminal": to_terminal, "markdown": to_markdown, "latex": to_latex}
