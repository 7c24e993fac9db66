"""Runs every benchmark and prints one table: ``python -m benchmarks [--json PATH] [NAME ...]``.

Each ``bench_*.py`` has a ``main()`` that returns rows ``{name, ratio, limit, ok}``; both sides of a ratio are measured
in turns in one process. The exit code is 1 when a limit is missed.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from importlib import import_module
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table


def main() -> int:
    """Runs the chosen benchmarks; returns the exit code."""
    names = sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of: {', '.join(names)}; default all")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(names)
    if unknown:
        parser.error(f"unknown benchmark {min(unknown)!r}; there are {', '.join(names)}")
    machine = (
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    rows = []
    for name in arguments.names or names:
        rows += import_module(f"benchmarks.bench_{name}").main()
    table = Table(title=machine)
    for column in ("measured", "ratio", "limit", ""):
        table.add_column(column)
    for row in rows:
        limit = "" if row["limit"] is None else f"{row['limit']:g}"
        table.add_row(row["name"], f"{row['ratio']:.3g}", limit, "ok" if row["ok"] else "MISSED")
    Console(width=120).print(table)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")
    return 0 if all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
