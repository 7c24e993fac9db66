"""``protoat evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import Progress

from protoat.cli.tables import measurements
from protoat.experiments.measure import evaluate_run
from protoat.experiments.parser import Parser
from protoat.experiments.store import read_run

__all__ = ["main"]


def main(args: list[str]) -> None:
    """Attacks a trained run, prints a table and writes ``evaluation.json``."""
    parser = Parser("protoat evaluate")
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument(
        "--attacks",
        nargs="+",
        type=str,
        default=["clean", "fgsm", "pgd10"],
        help="clean, fgsm, pgd10, pgd100x10 (100 steps, 10 restarts), pgd10@4/255 (another radius), or a class by its "
        "dotted path; steps of 2.5 * eps / steps from a random start",
    )
    parser.add_argument("--n", type=int | None, help="measure this many test images, a share of each mode")
    parser.add_argument("--batch-size", type=int, default=256, help="images attacked at once")
    parser.add_argument(
        "--weights", type=Literal["best", "last"] | None, help="default: best on held-out images, else last"
    )
    options = parser.parse_args(args)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks = {name: bar.add_task(name, total=None) for name in options.attacks}
        evaluate_run(
            options.run,
            options.attacks,
            limit=options.n,
            batch_size=options.batch_size,
            weights=options.weights,
            advance=lambda name, count: bar.advance(tasks[name], count) if name in tasks else None,
        )
    stored = read_run(options.run).evaluation or {}
    subject = stored["subject"]
    measurements(
        f"{options.run}: {subject['weights']}, {subject['images']} images of {subject['data']}", stored["attacks"]
    )
    print(f"{options.run / 'evaluation.json'} holds counts for each class, mode and image")
