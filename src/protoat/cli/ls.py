"""``protoat ls``."""

from __future__ import annotations

from pathlib import Path

from protoat.cli.tables import accuracy, print_table
from protoat.evaluation import Count
from protoat.experiments.parser import Parser
from protoat.experiments.store import StoredRun, list_runs

__all__ = ["main", "parts_of"]


def main(args: list[str]) -> None:
    """Lists all runs below a folder."""
    parser = Parser("protoat ls")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs"), help="default runs")
    folder = parser.parse_args(args).folder
    runs = list_runs(folder)
    if not runs:
        print(f"no runs below {folder}; protoat train makes one")
        return
    print_table(str(folder), ["run", "data", "method", "regularizer", "epochs", "measured"], map(_row, runs), text=6)


def _row(run: StoredRun) -> list[str]:
    return [str(run.path), *parts_of(run), _epochs(run), _measured(run)]


def parts_of(run: StoredRun) -> list[str]:
    """Data, method and regularizer of a run in short."""
    recipe = run.recipe
    names = [
        recipe[key]["class_path"].rpartition(".")[2] if recipe[key] else "none"
        for key in ("data", "method", "regularizer")
    ]
    groups = recipe["groups"]
    if groups is not None:
        names[0] += f" in {groups if isinstance(groups, int | str) else len(groups)}"
    return names


def _epochs(run: StoredRun) -> str:
    done = run.metrics[-1]["epoch"] if run.metrics else 0
    return f"{done} of {run.recipe['epochs']}" + ("" if run.complete else ", not finished")


def _measured(run: StoredRun) -> str:
    attacks = (run.evaluation or {}).get("attacks", {})
    if not attacks:
        return f"protoat evaluate {run.path}" if run.complete else ""
    if run.outdated:
        return f"of earlier weights; again: protoat evaluate {run.path}"
    return "\n".join(f"{name} {accuracy(Count(entry['correct'], entry['total']))}" for name, entry in attacks.items())
