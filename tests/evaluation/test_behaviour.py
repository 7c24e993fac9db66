"""What no measurement can work with: answers that depend on chance, on the batch, or on the mode."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from protoat.attacks.examination import differing
from protoat.evaluation.behaviour import eval_logits, unlike_eval_mode, unlike_in_company, unlike_itself

from .cheats import BatchStatistics, Noisy, build


@pytest.fixture
def x() -> Tensor:
    return torch.rand(6, 1, 8, 8)


CASES = {
    "sound": (lambda: build().eval(), (False, False, False)),
    "dropout in train mode": (lambda: build(dropout=0.5).train(), (False, False, True)),
    "batch norm in train mode": (lambda: build().train(), (False, False, True)),
    "train mode without effect": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).train(), (False,) * 3),
    "batch statistics": (lambda: build(BatchStatistics).eval(), (False, True, False)),
    "noise": (lambda: Noisy(build(), 0.1).eval(), (True, False, False)),
}


@pytest.mark.parametrize("name", CASES)
def test_each_habit_is_told_apart(name: str, x: Tensor) -> None:
    builder, expected = CASES[name]
    model = builder()
    found = tuple(bool(unlike(model, x).any()) for unlike in (unlike_itself, unlike_in_company, unlike_eval_mode))
    assert found == expected


def test_train_mode_shows_with_a_single_image(x: Tensor) -> None:
    """Batch norm refuses to train on one vector, and a last batch may hold one."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    assert unlike_eval_mode(model.train(), x[:1]).tolist() == [True]
    assert unlike_eval_mode(model.eval(), x[:1]).tolist() == [False]


def test_everything_is_left_as_found(x: Tensor) -> None:
    model = Noisy(build(dropout=0.5), 0.1).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    for look in (eval_logits, unlike_itself, unlike_in_company, unlike_eval_mode):
        look(model, x)
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_rounding_is_no_difference_and_nothing_finite_is_one() -> None:
    logits = torch.tensor([[1000.0, -3.0], [5.0, 7.0], [1.0, 2.0]])
    other = logits + torch.tensor([[5e-3, 0.0], [0.02, 0.0], [0.0, float("nan")]])
    assert differing(logits, other).tolist() == [False, True, True]
