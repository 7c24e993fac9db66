"""A pre-training step on ResNet-18 over PGD-AT's, beside what its passes predict, and the share of augmentation in it.

ACL in its four modes and RoCL, with their own defaults, take turns with PGD-7 in one process, on batches of 16 colour
images of 32x32 and two threads; the ratios are of medians. The prediction is counted (`benchmarks.passes`): a forward
costs 1, a backward to the images 1, one to the weights 2, so PGD-7's step is 17; the limit is a quarter above it. The
two random views of the batch are timed alone and divided by the step that holds them: at most a tenth.
``python -m benchmarks.bench_pretraining``
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.passes import count
from protoat import Objective
from protoat.methods import PGDAT, Method
from protoat.models import ResNet18
from protoat.pretraining import ACL, Contrastive, RoCL
from protoat.threats import Linf
from protoat.training import LARS, parameter_groups

BATCH, CLASSES, THREADS, ROUNDS, REPEATS = 16, 10, 2, 3, 5
SLACK, SHARE = 1.25, 0.1
KINDS: dict[str, Callable[..., Method]] = {
    "PGD-7": PGDAT,
    "ACL (DS)": ACL,
    "ACL (A2A)": partial(ACL, mode="A2A"),
    "ACL (A2S)": partial(ACL, mode="A2S"),
    "ACL (S2S)": partial(ACL, mode="S2S"),
    "RoCL": RoCL,
}


def stepper(method: Method, x: Tensor, y: Tensor) -> Callable[[], float]:
    """Trains one batch; returns the seconds it took."""
    model: torch.nn.Module = ResNet18(CLASSES).to(memory_format=torch.channels_last)
    if isinstance(method, Contrastive):
        model = method.encoder(model)
    objective = Objective(method)
    optimizer = LARS(parameter_groups(model, objective, lr=0.1), lr=0.1)
    model.train()

    def step() -> float:
        start = time.perf_counter()
        for terms in objective.losses(model, x, y):
            optimizer.zero_grad()
            terms.total.backward()
            optimizer.step()
        return time.perf_counter() - start

    return step


def views(method: Contrastive, x: Tensor) -> float:
    """Seconds for two views of a batch."""
    start = time.perf_counter()
    method.two_views(x)
    return time.perf_counter() - start


def row(name: str, ratio: float, limit: float, note: str) -> dict[str, Any]:
    """A result, printed; it is fine at or below its limit."""
    print(f"{name}: {ratio:.4f} (at most {limit:g}); {note}")
    return {"name": name, "ratio": ratio, "limit": limit, "ok": ratio <= limit}


def measure() -> list[dict[str, Any]]:
    """A row for the cost of each step and for its share of augmentation."""
    x = torch.rand(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    methods = {name: kind(Linf("8/255")) for name, kind in KINDS.items()}
    steps = {name: stepper(method, x, torch.arange(BATCH) % CLASSES) for name, method in methods.items()}
    took: dict[str, list[float]] = {name: [] for name in steps}
    drawn: dict[str, list[float]] = {name: [] for name, method in methods.items() if isinstance(method, Contrastive)}
    for turn in range(ROUNDS + 1):
        for name, step in steps.items():
            took[name] += [step()] * (turn > 0)  # the first turn warms up
            method = methods[name]
            if isinstance(method, Contrastive):
                drawn[name] += [views(method, x) for _ in range(REPEATS * (turn > 0))]
    base, rows = median(took["PGD-7"]), []
    for name, times in drawn.items():
        step_seconds, passes = median(took[name]), count(KINDS[name])
        predicted = passes.cost / count(PGDAT).cost
        note = f"{1e3 * step_seconds:.0f} ms on {1e3 * base:.0f} ms; passes predict {predicted:.2f}: {passes}"
        rows.append(row(f"{name} step over PGD-7's", step_seconds / base, round(SLACK * predicted, 2), note))
        note = f"{1e3 * median(times):.1f} ms of {1e3 * step_seconds:.0f} ms, {BATCH} images, {THREADS} threads"
        rows.append(row(f"{name} step, share of augmentation", median(times) / step_seconds, SHARE, note))
    return rows


def main() -> list[dict[str, Any]]:
    """Measures, prints a line for each comparison and returns them as rows."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        return measure()
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    raise SystemExit(0 if all(row["ok"] for row in main()) else 1)
