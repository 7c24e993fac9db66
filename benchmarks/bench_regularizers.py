"""What each metric term adds to a PGD-7 training step on ResNet-18, and how SoftTriple's cost grows.

A term's extra cost is what it does beside the step itself: its own forwards, its value, and the backward to the
embeddings, to its prototypes and through its own forwards. It is timed alone, because a term of a millisecond would
drown in the scatter of a step of seconds; the step without any term takes turns with all of them in one process. The
ratio is (step + extra) / step, of medians. Beside it stands what the counted passes predict (`benchmarks.passes`): a
forward is 1, a backward to the images 1, one to the weights 2, so the step is 17. Everything runs on one thread.
``python -m benchmarks.bench_regularizers``
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.passes import count
from protoat import Objective, regularizers
from protoat.methods import PGDAT
from protoat.models import ResNet18
from protoat.recipes.reading import recipe_parser
from protoat.regularizers import Regularizer, SoftTriple
from protoat.threats import Linf
from protoat.types import Forwards, Output

BATCH, CLASSES, ROUNDS, REPEATS = 32, 10, 3, 5
GROWTH_BASE = {"C": 10, "K": 10, "D": 512}
GROWTH: tuple[dict[str, int], ...] = ({"C": 100}, {"C": 1000}, {"K": 1}, {"K": 20}, {"K": 40}, {"D": 128}, {"D": 2048})


def seconds(work: Callable[[], None]) -> float:
    """Time of one call."""
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def step(model: torch.nn.Module, objective: Objective, x: Tensor, y: Tensor) -> None:
    """One whole training step but for the optimizer."""
    for terms in objective.losses(model, x, y):
        model.zero_grad()
        terms.total.backward()


def term(regularizer: Regularizer, model: torch.nn.Module, x: Tensor, y: Tensor, output: Output) -> None:
    """What `regularizer` adds to a step whose forward gave `output`."""
    embedding = output.embedding.detach().requires_grad_()
    regularizer.term(model, x, y, Forwards(x, output._replace(embedding=embedding))).backward()


def beside_the_step(device: str) -> list[dict[str, Any]]:
    """A row for each regularizer, and one that compares SoftTriple with TLA."""
    model = ResNet18(CLASSES).to(device)
    x, y = torch.rand(BATCH, 3, 32, 32, device=device), torch.arange(BATCH, device=device) % CLASSES
    kinds = {name: getattr(regularizers, name) for name in recipe_parser().choices("regularizer") if name != "none"}
    terms = {name: kind(CLASSES, model.embedding_dim).to(device) for name, kind in kinds.items()}
    predicted = {name: count(PGDAT, kind).cost / count(PGDAT).cost for name, kind in kinds.items()}
    objective = Objective(PGDAT(Linf(8 / 255), steps=7, step_size=2 / 255))
    with torch.no_grad():
        output = model(x)
    base: list[float] = []
    extras: dict[str, list[float]] = {name: [] for name in terms}
    for turn in range(ROUNDS + 1):
        took = seconds(lambda: step(model, objective, x, y))
        base += [took] * (turn > 0)  # the first turn warms up
        for name, regularizer in terms.items():
            for _ in range(1 if predicted[name] > 1 else REPEATS):
                took = seconds(lambda part=regularizer: term(part, model, x, y, output))
                extras[name] += [took] * (turn > 0)
    rows = []
    for name, times in extras.items():
        extra = median(times)
        note = f"{1e3 * extra:.1f} ms on {1e3 * median(base):.0f} ms; passes predict {predicted[name]:.2f}"
        rows.append(
            row(f"PGD-7 step with {name}", 1 + extra / median(base), 1.01 if name == "SoftTriple" else None, note)
        )
    cheaper = median(extras["SoftTriple"]) / median(extras["TLA"])
    return [*rows, row("extra cost of SoftTriple over TLA's", cheaper, 1.0)]


def growth(device: str) -> list[dict[str, Any]]:
    """Forward and backward of SoftTriple on a batch of 128, over the same at C = 10, K = 10, D = 512."""
    works: dict[str, Callable[[], None]] = {}
    for change in ({}, *GROWTH):
        size = GROWTH_BASE | change
        metric = SoftTriple(size["C"], size["D"], prototypes_per_class=size["K"]).to(device)
        embedding = torch.randn(128, size["D"], device=device, requires_grad=True)
        y = torch.arange(128, device=device) % size["C"]
        name = ", ".join(f"{key} = {value}" for key, value in change.items())
        works[name] = lambda metric=metric, embedding=embedding, y=y: metric(embedding, y).backward()
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(ROUNDS * REPEATS + 1):
        for name, work in works.items():
            took = seconds(work)
            times[name] += [took] * (turn > 0)
    base = median(times.pop(""))
    return [
        row(
            f"SoftTriple at {name} over C = 10, K = 10, D = 512",
            median(values) / base,
            None,
            f"{1e3 * base:.2f} ms there",
        )
        for name, values in times.items()
    ]


def row(name: str, ratio: float, limit: float | None, note: str = "") -> dict[str, Any]:
    """A result, printed; it is fine at or below its limit."""
    bound = "" if limit is None else f" (at most {limit:g})"
    print(f"{name}: {ratio:.4f}{bound}{'; ' if note else ''}{note}")
    return {"name": name, "ratio": ratio, "limit": limit, "ok": limit is None or ratio <= limit}


def main() -> list[dict[str, Any]]:
    """Measures, prints a line for each comparison and returns them as rows."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return beside_the_step(device) + growth(device)
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    raise SystemExit(0 if all(row["ok"] for row in main()) else 1)
