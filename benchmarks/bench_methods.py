"""Each method's optimizer step on ResNet-18 over PGD-AT's, beside what its passes through the network predict.

All methods with their own defaults take turns in one process, on one thread and small batches; the ratios are of
medians. The prediction is counted (`benchmarks.passes`): a forward costs 1, a backward to the images 1, one to the
weights 2, so PGD-AT's step is 17. What a method does beside its passes (drawing augmented views, moving weights) shows
as a ratio above the prediction; the limit is a quarter above it. Methods are found by class. What regularizers add is
in ``bench_regularizers``. ``python -m benchmarks.bench_methods``
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.passes import built, count
from protoat import Objective, methods
from protoat.data import Origin
from protoat.methods import AWP, CFA, TRADES, Method
from protoat.models import ResNet18
from protoat.recipes.reading import recipe_parser
from protoat.threats import Linf

BATCH, CLASSES, ROUNDS, SLACK = 8, 10, 3, 1.25
THREAT = Linf("8/255")


def kinds() -> dict[str, Callable[..., Method]]:
    """Every method, and the two that come in a second form."""
    found = {name: getattr(methods, name) for name in recipe_parser().choices("method")}
    return found | {"CFA with TRADES": partial(CFA, beta=6.0), "AWP around TRADES": partial(AWP, method=TRADES)}


def stepper(kind: Callable[..., Method], x: Tensor, y: Tensor) -> Callable[[], float]:
    """Trains one batch; returns the seconds for each optimizer step."""
    model = ResNet18(CLASSES).to(memory_format=torch.channels_last)
    objective = Objective(built(kind, THREAT, tuple(x.shape[1:])))
    objective.prepare(model)
    optimizer = torch.optim.SGD([*model.parameters(), *objective.parameters()], lr=0.01, momentum=0.9)

    def run() -> float:
        started = time.perf_counter()
        model.train()
        for terms in objective.losses(model, x, y, Origin(torch.arange(len(x)))):
            optimizer.zero_grad()
            terms.total.backward()
            optimizer.step()
        return (time.perf_counter() - started) / objective.updates_per_batch

    return run


def measure() -> list[dict[str, Any]]:
    """A row for each method, in the order of what they cost."""
    x = torch.rand(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    y = torch.arange(BATCH) % CLASSES
    predicted = {name: count(kind).cost for name, kind in kinds().items()}
    steppers = {name: stepper(kind, x, y) for name, kind in kinds().items()}
    seconds: dict[str, list[float]] = {name: [] for name in steppers}
    for turn in range(ROUNDS + 1):
        for name, run in steppers.items():
            took = run()
            seconds[name] += [took] * (turn > 0)  # the first turn warms up
    base, passes = median(seconds["PGDAT"]), predicted["PGDAT"]
    rows = []
    for name in sorted(set(predicted) - {"PGDAT"}, key=lambda name: predicted[name]):
        ratio, expected = median(seconds[name]) / base, predicted[name] / passes
        limit = SLACK * expected
        print(f"{name} step / PGDAT's: {ratio:.2f}; passes predict {expected:.2f}")
        rows.append(
            {"name": f"{name} step / PGDAT's ({expected:.2f})", "ratio": ratio, "limit": limit, "ok": ratio <= limit}
        )
    return rows


def main() -> list[dict[str, Any]]:
    """Measures, prints a line for each method and returns them as rows."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return measure()
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    raise SystemExit(0 if all(row["ok"] for row in main()) else 1)
