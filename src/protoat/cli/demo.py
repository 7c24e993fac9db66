"""``protoat demo``."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from protoat.cli.printing import print_table
from protoat.cli.say import say
from protoat.evaluation import Count
from protoat.evaluation.record import Evaluation
from protoat.recipes.parser import Parser
from protoat.recipes.reading import read_recipe
from protoat.reports.records import accuracy
from protoat.runs.cores import choosing_threads
from protoat.runs.measure import measure
from protoat.runs.run import Run
from protoat.runs.train import train

_RUNS = {"PGD-AT": ["--regularizer", "none"], "multi-prototype PGD-AT": []}
_ATTACKS = ["clean", "fgsm", "pgd10", "pgd100"]


def main(args: list[str]) -> None:
    """Trains with and without prototypes on the same budget and seed, attacks both, and compares."""
    parser = Parser("protoat demo")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of the two runs")
    out = parser.parse_args(args).out
    logging.getLogger("protoat.training.loop").setLevel(logging.WARNING)
    torch.set_num_threads(1)  # so that everybody sees the same numbers; for 8x8 pixels a second one brings nothing
    started = time.perf_counter()
    say("real 8x8 digits in two classes of five modes each: 0-4 against 5-9, moved by at most 0.1 a pixel")
    with choosing_threads(None):
        runs = {name: _run(name, overrides, out) for name, overrides in _RUNS.items()}
    plain, multi = (run.evaluation for run in runs.values() if run.evaluation is not None)
    _compare("accuracy on 500 test images, % [95 % interval]", "attack", _totals(plain), _totals(multi))
    for attack in ("clean", "pgd100"):
        modes = [measured[attack].per_mode for measured in (plain, multi)]
        _compare(f"the same for each mode, {attack}", "digit", *modes)
    _prototypes(runs["multi-prototype PGD-AT"])
    seconds = time.perf_counter() - started
    say(f"{seconds:.0f} s; files are in {out}; next: protoat show {runs['multi-prototype PGD-AT'].path}")


def _run(name: str, overrides: list[str], out: Path) -> Run:
    folder = out / name.lower().replace(" ", "-")
    say(f"training {name} into {folder}", flush=True)
    train(read_recipe("digits-2", overrides), folder)
    measure(Run(folder).subject(), _ATTACKS)
    return Run(folder)


def _totals(record: Evaluation) -> dict[str, Count]:
    return {name: record[name].count for name in _ATTACKS}


def _compare(title: str, kind: str, plain: Mapping[str, Count], multi: Mapping[str, Count]) -> None:
    rows = [[name, accuracy(plain[name]), accuracy(multi[name]), _verdict(plain[name], multi[name])] for name in plain]
    print_table(title, [kind, *_RUNS, "difference"], rows)


def _verdict(plain: Count, multi: Count) -> str:
    """What the two intervals allow to say."""
    (low, high), (low_multi, high_multi) = plain.interval, multi.interval
    gain = f"{100 * (multi.accuracy - plain.accuracy):+.1f}"
    return gain if low_multi > high or high_multi < low else f"{gain}, no difference shown"


def _prototypes(run: Run) -> None:
    start = run.choices["regularizer"]["init_args"]["prototypes_per_class"]
    assert run.best is not None
    counts, best = dict(run.prototype_counts), run.best.epoch
    columns = ["class", "at first", f"epoch {best} (measured above)", f"epoch {max(counts)} (last)"]
    names = run.fact("class_names")
    rows = [
        [name, str(start), *map(str, pair)]
        for name, *pair in zip(names, counts[best], counts[max(counts)], strict=True)
    ]
    print_table("prototypes in use, before and after merging", columns, rows)
    say(
        "One seed and a small set: where the intervals overlap no difference is shown, whichever number is larger, and "
        "another seed can turn the order around. Overlap is no test; protoat compare looks at the images one by one."
    )
