"""The caller's modes and frozen parameters: they hold while a model trains, and are as they were afterwards."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import protoat as pa
from protoat.methods import AWP, CFA, DAJAT, TRADES, FastAT, FreeAT, Method, Standard
from protoat.training import SWA, fit

X = torch.rand(16, 1, 6, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(16) % 3
THREAT = pa.Linf(0.1)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.bn1 = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        return self.head(self.drop(self.bn2(self.conv2(x)).relu().flatten(1)))


def frozen() -> Net:
    """The usual way to fine-tune: the first block keeps weights and statistics."""
    net = Net()
    net.bn1.eval()
    net.drop.eval()
    for part in (net.conv1, net.bn1):
        part.requires_grad_(False)
    return net


def train(net: nn.Module, method: Method | None = None, **options: object) -> None:
    goal = pa.Objective(method or Standard(THREAT))
    goal.prepare(net)
    parameters = [p for p in [*net.parameters(), *goal.parameters()] if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1, weight_decay=0.1)
    fit(net, [(X[:8], Y[:8]), (X[8:], Y[8:])], goal, epochs=2, optimizer=optimizer, **options)  # type: ignore[arg-type]


def modes(net: nn.Module) -> dict[str, bool]:
    return {name: module.training for name, module in net.named_modules()}


METHODS: dict[str, Callable[[], Method]] = {
    "Standard": lambda: Standard(THREAT),
    "PGD in train mode": lambda: pa.methods.PGDAT(THREAT, steps=2, bn="train"),
    "PGD in train mode, nothing moved": lambda: pa.methods.PGDAT(THREAT, steps=2, bn="train_frozen"),
    "FastAT": lambda: FastAT(THREAT),
    "FreeAT": lambda: FreeAT(THREAT, replays=2),
    "TRADES": lambda: TRADES(THREAT, steps=2),
    "AWP": lambda: AWP(THREAT, gamma=0.05),
    "CFA": lambda: CFA(THREAT, steps=2, start_epoch=0),
    "DAJAT": lambda: DAJAT(THREAT),
}


@pytest.mark.parametrize("method", METHODS)
def test_what_was_frozen_stays(method: str) -> None:
    net = frozen()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    came, wanted = modes(net), [p.requires_grad for p in net.parameters()]
    train(net, METHODS[method](), validation=[(X, Y)], averaging=SWA(start_epoch=1))
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert not {name for name in changed if name.startswith(("conv1", "bn1"))}
    assert {"conv2.weight", "bn2.running_mean", "head.weight"} <= changed
    assert modes(net) == came
    assert [p.requires_grad for p in net.parameters()] == wanted


def test_modes_in_training_are_the_callers() -> None:
    seen: list[dict[str, bool]] = []

    class Watched(Net):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(modes(self))
            return super().forward(x)

    net = Watched()
    net.bn2.eval()
    train(net, validation=[(X, Y)])
    training = [modes for modes in seen if modes[""]]
    assert len(training) == 4
    assert all(found == {**dict.fromkeys(found, True), "bn2": False} for found in training)


def test_a_head_in_train_mode_in_a_model_in_eval_mode(caplog: pytest.LogCaptureFixture) -> None:
    net = Net().eval()
    net.head.train()
    statistics = net.bn1.running_mean.clone(), net.bn2.running_mean.clone()
    train(net)
    assert torch.equal(net.bn1.running_mean, statistics[0])
    assert torch.equal(net.bn2.running_mean, statistics[1])
    assert modes(net) == {name: name == "head" for name in modes(net)}


def test_a_model_that_was_measured_before_trains(caplog: pytest.LogCaptureFixture) -> None:
    plain, measured = Net(), Net().eval()
    with caplog.at_level(logging.WARNING):
        train(plain)
        assert not caplog.records
        train(measured)
    assert "came in eval mode" in caplog.text
    assert all(
        torch.equal(a, b) for a, b in zip(plain.state_dict().values(), measured.state_dict().values(), strict=True)
    )
    assert not any(modes(measured).values())


def test_the_models_own_train_is_asked() -> None:
    class Freezes(Net):
        def train(self, mode: bool = True) -> Freezes:
            super().train(mode)
            self.bn1.eval()
            return self

    net = Freezes()
    before = net.bn1.running_mean.clone()
    train(net)
    assert torch.equal(net.bn1.running_mean, before)


def test_modes_are_restored_after_an_error() -> None:
    net = frozen()
    came = modes(net)
    with pytest.raises(ValueError, match="classes"):
        train_on = [(X, Y), (X, Y + 7)]
        fit(
            net, train_on, pa.Objective(Standard(THREAT)), epochs=1, optimizer=torch.optim.SGD(net.parameters(), lr=0.1)
        )
    assert modes(net) == came
