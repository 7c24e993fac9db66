"""MALT's order of targets against distances to the boundaries of a linear model, and of one with a Jacobian."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from protoat.attacks import APGDT, MALT
from protoat.attacks.malt import nearest_classes
from protoat.attacks.problem import Problem
from protoat.threats import L1, L2, Linf, ThreatModel
from protoat.types import as_output

THREATS = pytest.mark.parametrize("threat", [Linf(0.1), L2(0.5), L1(2.0)], ids=["linf", "l2", "l1"])


def problem(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Problem:
    return Problem(lambda images: as_output(model(images)), x, y, None, 0.1, torch.Generator())


@THREATS
def test_targets_are_ranked_by_the_distance_that_a_linear_model_has(threat: ThreatModel) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 6)).double()
    x = torch.rand(5, 1, 4, 4, dtype=torch.float64)
    y = model(x).argmax(1)
    found = nearest_classes(problem(model, x, y), threat.geometry, 100)
    dual = {"linf": 1, "l2": 2, "l1": float("inf")}[threat.norm]
    weight, logits = model[1].weight.detach(), model(x).detach()
    for row in range(5):
        away = {
            k: float((logits[row, y[row]] - logits[row, k]) / (weight[y[row]] - weight[k]).norm(dual))
            for k in range(6)
            if k != int(y[row])
        }
        assert found[row].tolist() == sorted(away, key=lambda k: away[k])


def test_only_the_likeliest_classes_are_ranked_and_the_nearest_are_tried(digits: Callable[..., Any]) -> None:
    model, x, y = digits(count=6)
    few = nearest_classes(problem(model, x, y), Linf(0.1).geometry, 3)
    likeliest = model(x).logits.scatter(1, y[:, None], -torch.inf).topk(3).indices
    assert torch.equal(few.sort(1).values, likeliest.sort(1).values)
    attack = MALT(Linf(0.1), num_targets=2, candidates=3)
    assert torch.equal(attack.ranked(problem(model, x, y)), few[:, :2])


def test_its_first_targets_are_worth_as_many_of_apgd_t(digits: Callable[..., Any]) -> None:
    model, x, y = digits(count=100)
    left = {kind: int(kind(Linf(0.12), num_targets=2, steps=20)(model, x, y).correct.sum()) for kind in (MALT, APGDT)}
    assert left[MALT] <= left[APGDT] + 1
    assert left[MALT] < int((model(x).logits.argmax(1) == y).sum())


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes(digits: Callable[..., Any], classes: int) -> None:
    model, x, y = digits(classes=classes, count=8)
    assert nearest_classes(problem(model, x, y), Linf(0.1).geometry, 9).shape == (8, classes - 1)
    MALT(Linf(0.2), steps=3)(model, x, y)
