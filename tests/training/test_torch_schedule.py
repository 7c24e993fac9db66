"""Schedulers of torch's: the rates are those of torch's own loop, and a resumed run goes on in the middle."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim import lr_scheduler as torch_lr

import protoat as pa
from protoat.training import FitResult, TorchSchedule, fit

X, Y = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
BATCHES = [(X[:4], Y[:4]), (X[4:8], Y[4:8]), (X[8:], Y[8:])]
EPOCHS = 4

SCHEDULERS: dict[str, Callable[[Optimizer], Any]] = {
    "StepLR": lambda o: torch_lr.StepLR(o, 2),
    "MultiStepLR": lambda o: torch_lr.MultiStepLR(o, [1, 3]),
    "CosineAnnealingLR": lambda o: torch_lr.CosineAnnealingLR(o, EPOCHS),
    "ExponentialLR": lambda o: torch_lr.ExponentialLR(o, 0.9),
    "LambdaLR": lambda o: torch_lr.LambdaLR(o, [lambda epoch: 0.5**epoch, lambda epoch: 1 / (1 + epoch)]),
    "OneCycleLR": lambda o: torch_lr.OneCycleLR(o, 0.3, total_steps=EPOCHS * len(BATCHES)),
    "CyclicLR": lambda o: torch_lr.CyclicLR(o, 0.01, 0.1, step_size_up=3),
    "SequentialLR": lambda o: torch_lr.SequentialLR(
        o, [torch_lr.LinearLR(o, total_iters=2), torch_lr.ExponentialLR(o, 0.5)], [2]
    ),
    "CosineAnnealingWarmRestarts": lambda o: torch_lr.CosineAnnealingWarmRestarts(o, 2),
}


class Killed(BaseException):
    pass


class Net(nn.Module):
    def __init__(self, dies_at: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.dies_at, self.calls = nn.Linear(16, 8), nn.Linear(8, 3), dies_at, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        if self.calls == self.dies_at:
            raise Killed
        return self.head(self.body(x.flatten(1)).relu())


def optimizer_of(net: Net) -> Optimizer:
    groups = [{"params": list(net.body.parameters()), "lr": 0.1}, {"params": list(net.head.parameters()), "lr": 0.02}]
    return SGD(groups, lr=0.1, momentum=0.9)


def train(
    build: Callable[[Optimizer], Any], out: Path | None = None, dies_at: int | None = None, **options: Any
) -> tuple[Net, FitResult, Optimizer]:
    net = Net(dies_at)
    optimizer = optimizer_of(net)
    goal = pa.Objective(pa.methods.Standard(pa.Linf(0.1)))
    options = {"epochs": EPOCHS, "loggers": [], "checkpoint_every": None if out is None else 1, **options}
    result = fit(net, BATCHES, goal, optimizer=optimizer, schedule=build(optimizer), out=out, **options)
    return net, result, optimizer


def by_hand(build: Callable[[Optimizer], Any], *, each_update: bool) -> Net:
    net = Net()
    optimizer = optimizer_of(net)
    scheduler = build(optimizer)
    for _ in range(EPOCHS):
        for x, y in BATCHES:
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
            if each_update:
                scheduler.step()
        if not each_update:
            scheduler.step()
    return net


@pytest.mark.parametrize("name", SCHEDULERS)
def test_equals_a_loop_of_torch(name: str) -> None:
    expected = by_hand(SCHEDULERS[name], each_update=name in ("OneCycleLR", "CyclicLR"))
    found, _, _ = train(SCHEDULERS[name])
    assert torch.equal(found.body.weight, expected.body.weight)
    assert torch.equal(found.head.weight, expected.head.weight)


def test_each_update_where_asked() -> None:
    build = lambda o: torch_lr.ExponentialLR(o, 0.9)  # noqa: E731
    found, result, _ = train(lambda o: TorchSchedule(build(o), every="update"))
    assert torch.equal(found.body.weight, by_hand(build, each_update=True).body.weight)
    assert [line["lr"] for line in result.metrics] == pytest.approx([0.1 * 0.9**n for n in (2, 5, 8, 11)])


@pytest.mark.parametrize("dies_at", [4, 8, 12])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_resumed_is_as_never_stopped(name: str, dies_at: int, tmp_path: Path) -> None:
    whole, expected, _ = train(SCHEDULERS[name])
    with pytest.raises(Killed):
        train(SCHEDULERS[name], tmp_path, dies_at)
    resumed, result, _ = train(SCHEDULERS[name], tmp_path)
    assert torch.equal(resumed.head.weight, whole.head.weight)
    assert [line["lr"] for line in result.metrics] == [line["lr"] for line in expected.metrics]


def test_plateau_follows_the_validation(tmp_path: Path) -> None:
    def build(optimizer: Optimizer) -> Any:
        return torch_lr.ReduceLROnPlateau(optimizer, mode="max", factor=0.5, patience=0, threshold=2.0)

    _, result, _ = train(build, validation=[(X, Y)])
    assert [line["lr"] for line in result.metrics] == pytest.approx([0.1, 0.1, 0.05, 0.025])
    with pytest.raises(Killed):
        train(build, tmp_path, 11, validation=[(X, Y)])
    _, resumed, _ = train(build, tmp_path, validation=[(X, Y)])
    assert [line["lr"] for line in resumed.metrics] == [line["lr"] for line in result.metrics]


def test_another_scheduler_is_another_run(tmp_path: Path) -> None:
    train(lambda o: torch_lr.StepLR(o, 2), tmp_path)
    with pytest.raises(ValueError, match="schedule StepLR"):
        train(lambda o: torch_lr.StepLR(o, 3), tmp_path)


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (lambda o: torch_lr.StepLR(optimizer_of(Net()), 2), {}, "another optimizer"),
        (lambda o: torch_lr.OneCycleLR(o, 0.3, total_steps=5), {}, "total_steps=5.*12"),
        (lambda o: torch_lr.ReduceLROnPlateau(o, mode="max"), {}, "pass validation"),
        (lambda o: torch_lr.ReduceLROnPlateau(o, mode="min"), {"validation": [(X, Y)]}, "mode='max'"),
        (
            lambda o: torch_lr.ReduceLROnPlateau(o, mode="max"),
            {"validation": [(X, Y)], "validate_every": 2},
            "validate_every=1",
        ),
        (lambda o: lambda epoch: 0.1, {}, "schedule is a function"),
        (lambda o: torch_lr.StepLR, {}, "StepLR itself"),
        (lambda o: TorchSchedule(3), {}, "int"),  # type: ignore[arg-type]
        (lambda o: TorchSchedule(torch_lr.StepLR(o, 2), every="batch"), {}, "every='batch'"),  # type: ignore[arg-type]
    ],
)
def test_what_is_refused(build: Any, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        train(build, tmp_path, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda o: torch_lr.MultiStepLR(o, [2, 30]), "milestones=30"),
        (lambda o: torch_lr.StepLR(o, 30), "step_size=30"),
        (lambda o: torch_lr.CosineAnnealingLR(o, 12), "T_max=12"),
        (lambda o: torch_lr.LinearLR(o, total_iters=9), "total_iters=9"),
        (lambda o: torch_lr.OneCycleLR(o, 0.3, total_steps=50), "total_steps=50"),
    ],
)
def test_what_never_happens_is_said(build: Any, word: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        train(build)
    assert word in caplog.text


def test_nothing_is_said_of_what_fits(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for build in SCHEDULERS.values():
            train(build)
    assert not caplog.records
