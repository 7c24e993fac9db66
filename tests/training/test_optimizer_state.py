"""An optimizer's state as tensors and JSON; parameters that must be in the optimizer."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from protoat.training import optimizer_state, parameter_groups

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw amsgrad": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True, betas=(0.8, 0.99)),
    "adam, rate in a tensor": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.01)),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
}


def steps(net: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    torch.manual_seed(seed)
    for _ in range(3):
        optimizer.zero_grad()
        net(torch.rand(4, 3)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_goes_on_as_before(name: str) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = OPTIMIZERS[name](net.parameters())
    steps(net, optimizer, 0)
    tensors, plain = optimizer_state.flatten(optimizer)
    tensors, plain = {key: value.clone() for key, value in tensors.items()}, json.loads(json.dumps(plain))

    other = copy.deepcopy(net)
    resumed = OPTIMIZERS[name](other.parameters())
    optimizer_state.unflatten(resumed, tensors, plain)
    before, after = optimizer.state_dict(), resumed.state_dict()
    assert str(before) == str(after)
    steps(net, optimizer, 1)
    steps(other, resumed, 1)
    for mine, theirs in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_refuses_what_only_a_pickle_could_hold() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    optimizer.param_groups[0]["hook"] = print
    with pytest.raises(ValueError, match="SGD keeps hook as builtin_function"):
        optimizer_state.flatten(optimizer)


def test_groups(small: ModuleType) -> None:
    net, goal = small.Net(), small.objective()
    net.head.bias.requires_grad_(False)
    network, prototypes = parameter_groups(net, goal, lr=0.1, prototype_lr_factor=3, weight_decay=0.01)
    assert {id(p) for p in network["params"]} == {id(p) for p in net.parameters()} - {id(net.head.bias)}
    assert (network["lr"], network["weight_decay"]) == (0.1, 0.01)
    assert prototypes["params"] == goal.prototypes()
    assert (prototypes["lr"], prototypes["weight_decay"]) == (pytest.approx(0.3), 0)
    for bad in ({"lr": 0}, {"lr": 0.1, "prototype_lr_factor": 0}, {"lr": 0.1, "weight_decay": -1}):
        with pytest.raises(ValueError, match=r"must be positive|must not be negative"):
            parameter_groups(net, goal, **bad)


def test_missing_parameters_are_named(small: ModuleType) -> None:
    net, goal = small.Net(), small.objective()
    everything = [*net.parameters(), *goal.parameters()]
    optimizer_state.check_covered(net, goal, torch.optim.SGD(everything, lr=0.1))
    with pytest.raises(
        ValueError, match=r"lacks objective parameter 0 \(10, 4, 16\); build it from .*parameter_groups"
    ):
        optimizer_state.check_covered(net, goal, torch.optim.SGD(net.parameters(), lr=0.1))
    with pytest.raises(ValueError, match=r"lacks head.weight \(10, 16\), head.bias \(10,\);"):
        optimizer_state.check_covered(
            net, goal, torch.optim.SGD([*net.features.parameters(), *goal.parameters()], lr=0.1)
        )
    net.head.requires_grad_(False)
    optimizer_state.check_covered(net, goal, torch.optim.SGD([*net.features.parameters(), *goal.parameters()], lr=0.1))
