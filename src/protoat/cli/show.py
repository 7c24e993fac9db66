"""``protoat show``."""

from __future__ import annotations

from pathlib import Path

from protoat.cli.ls import parts_of
from protoat.cli.tables import linear_heads, measurements, print_table
from protoat.experiments.measure import read_record
from protoat.experiments.named_run import run_named
from protoat.experiments.parser import Parser
from protoat.experiments.store import StoredRun, read_run

__all__ = ["main"]


def main(args: list[str]) -> None:
    """Shows one run: recipe, training, prototypes, evaluation; of any other model, its evaluation."""
    parser = Parser("protoat show")
    parser.add_argument(
        "run",
        type=Path,
        help="run folder, a run below runs by its name or digest, or a folder that protoat evaluate --out has written",
    )
    folder = run_named(parser.parse_args(args).run)
    if not (folder / "recipe.yaml").exists() and (record := read_record(folder)) is not None:
        measurements(record["subject"].get("model", str(folder)), record)
        return
    run = read_run(folder)
    data, method, regularizer = parts_of(run)
    print(f"{run.path}: {data}, {method}, {regularizer}, seed {run.recipe['seed']}")
    print((run.path / "recipe.yaml").read_text())
    _training(run)
    _prototypes(run)
    if run.outdated:
        print(f"the evaluation below is of earlier weights; measure again: protoat evaluate {run.path}")
    if run.evaluation is not None:
        measurements(str(run.path), run.evaluation)
    probe = run.probe
    if probe is not None:
        linear_heads(str(run.path), probe)
    if not run.complete:
        print("not finished; the command that started it resumes it")
    elif run.evaluation is None and probe is None:
        print(f"not measured; {run.measuring}")


def _training(run: StoredRun) -> None:
    best = run.best or {}
    rows = []
    for line in run.metrics:
        measured = line.get("validation", {})
        shares = [f"{100 * measured[name]:.1f}" if name in measured else "" for name in ("clean", "robust")]
        mark = " (taken back)" if "stopped" in line else " (best)" if line["epoch"] == best.get("epoch") else ""
        rows.append(
            [f"{line['epoch']}{mark}", f"{line['total']:.4f}", f"{line['lr']:.2g}", *shares, f"{line['seconds']:.1f}"]
        )
    print_table("training", ["epoch", "loss", "lr", "held-out clean %", "held-out robust %", "seconds"], rows)


def _prototypes(run: StoredRun) -> None:
    """Counts of each class, for the epochs in which one changed."""
    rows, before = [], None
    for epoch, counts in run.prototype_counts:
        if counts != before:
            rows.append([str(epoch), *map(str, counts)])
        before = counts
    if rows:
        print_table("prototypes in use, where a count changed", ["epoch", *run.facts["class_names"]], rows)
