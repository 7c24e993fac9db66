"""Small runs whose checkpoints lie in ``data/``, written before methods were modules: ``python earlier.py FOLDER``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from protoat import Objective, fit
from protoat.data import ImageData
from protoat.methods import AWP, CFA, DAJAT, BiaMAT, Distillation, FastAT, FreeAT, Method
from protoat.regularizers import TLA, Regularizer, SoftTriple
from protoat.threats import Linf
from protoat.training import parameter_groups
from protoat.types import Output

EPOCHS, BATCHES, STOPPED = 3, 3, 5
THREAT = Linf(0.1)
generator = torch.Generator().manual_seed(0)
PIXELS = torch.randint(256, (12 * BATCHES, 1, 8, 8), generator=generator, dtype=torch.uint8)
LABELS = torch.arange(12 * BATCHES) % 3
RUNS: dict[str, tuple[Callable[[], Method], Callable[[], Regularizer | None]]] = {
    "fast": (
        lambda: FastAT(THREAT, guard_drop=0.99),
        lambda: SoftTriple(3, 4, prototypes_per_class=2, gamma=0.1, projection=None),
    ),
    "free": (lambda: FreeAT(THREAT, replays=1), lambda: TLA(3, 4, mul_num=2)),
    "dajat-awp": (lambda: AWP(THREAT, method=partial(DAJAT, steps=1)), lambda: None),
    "cfa-awp": (lambda: AWP(THREAT, method=partial(CFA, steps=1, start_epoch=1)), lambda: None),
    "biamat": (
        lambda: BiaMAT(THREAT, auxiliary=ImageData(PIXELS, LABELS, ("a", "b", "c")), steps=1, warmup_epochs=1),
        lambda: None,
    ),
    "distillation": (lambda: Distillation(THREAT), lambda: None),
}


class Net(nn.Module):
    """Batch norm and an embedding in 170 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 2, 3, 2, padding=1), nn.BatchNorm2d(2), nn.Tanh(), nn.Flatten())
        self.embed = nn.Linear(32, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Output:
        embedding = self.embed(self.body(x))
        return Output(self.head(embedding), embedding)


class StopError(Exception):
    """Ends a run in the middle."""


def run(name: str, out: Path, stop: int | None = None) -> tuple[nn.Module, Objective]:
    """The run of this name, killed in update `stop` (from 0)."""
    method, regularizer = RUNS[name]
    torch.manual_seed(0)
    net, objective = Net(), Objective(method(), regularizer())
    optimizer = torch.optim.SGD(parameter_groups(net, objective, lr=0.05), momentum=0.9)
    steps = []

    def count(*_: object) -> None:
        if len(steps) == stop:
            raise StopError
        steps.append(None)

    optimizer.register_step_pre_hook(count)
    batches = list(zip((PIXELS / 255).split(12), LABELS.split(12), strict=True))
    fit(net, batches, objective, epochs=EPOCHS, optimizer=optimizer, out=out, checkpoint_every=1, loggers=[])
    return net, objective


if __name__ == "__main__":
    for name in RUNS:
        try:
            run(name, Path(sys.argv[1]) / name, STOPPED)
        except StopError:
            continue
