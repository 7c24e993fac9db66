"""The L2 attack of Carlini and Wagner against closed forms and foolbox."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from protoat.attacks import CarliniWagnerL2
from protoat.functional.losses import margin
from protoat.functional.norms import norm_of
from protoat.threats import L2, Linf


def test_distance_on_a_linear_model_is_exact() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    x = 0.5 + 0.05 * torch.randn(10, 1, 4, 4)
    y = model(x).argmax(1)
    weight = model[1].weight[0] - model[1].weight[1]
    logits = model(x)
    exact = (logits[:, 0] - logits[:, 1]).abs().detach() / weight.norm()
    found = CarliniWagnerL2(L2(1), steps=200, learning_rate=0.03).closest(model, x, y)
    assert bool((found.distance >= exact * (1 - 1e-4)).all())
    assert bool((found.distance <= exact * 1.03).all())


def test_foolbox_finds_nothing_nearer(digits: Callable[..., Any]) -> None:
    foolbox = pytest.importorskip("foolbox")
    model, x, y = digits(count=10)
    logits = nn.Sequential(model, type("Head", (nn.Module,), {"forward": lambda _, output: output.logits})()).eval()
    settings = {"steps": 60, "initial_const": 0.1}
    attack = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=5, stepsize=0.05, **settings)
    images = attack(foolbox.PyTorchModel(logits, bounds=(0, 1), device="cpu"), x, y, epsilons=None)[0]
    success = images.flatten(1).any(1)  # foolbox gives black images where it found none
    ours = CarliniWagnerL2(L2(1), search_steps=5, learning_rate=0.05, **settings).closest(model, x, y)
    assert ours.distance.isfinite().sum() >= success.sum() > 7
    both = ours.distance.isfinite() & success
    assert ours.distance[both].mean() <= 1.02 * norm_of("l2").distance(images, x)[both].mean()


@pytest.mark.parametrize("targeted", [False, True])
def test_kappa_is_the_lead_that_is_reached(digits: Callable[..., Any], targeted: bool) -> None:
    model, x, y = digits(count=6)
    targets = (y + 1) % 10 if targeted else None
    attack = CarliniWagnerL2(L2(1), kappa=2, steps=60, search_steps=4, initial_const=1, learning_rate=0.05)
    nearest = attack.closest(model, x, y, targets=targets)
    found = nearest.distance.isfinite()
    logits = model(nearest.x_adv)
    lead = -margin(logits, targets) if targets is not None else margin(logits, y)
    assert found.float().mean() > 0.8
    assert bool((lead[found] >= 2 - 1e-3).all())
    assert bool((lead[found] < 6).all())


def test_black_and_white_pixels_can_move(digits: Callable[..., Any]) -> None:
    """A pixel put at exactly the end of the tanh space would have no gradient and never move."""
    model, _, _ = digits()
    x = torch.zeros(3, 1, 8, 8)
    x[:, :, ::2] = 1
    y = model(x).logits.argmax(1)
    nearest = CarliniWagnerL2(L2(1), steps=400, search_steps=3, initial_const=10).closest(model, x, y)
    assert bool(nearest.distance.isfinite().all())
    assert ((nearest.x_adv - x).abs() > 0.002).float().mean() > 0.2


def test_early_abort_changes_little_and_saves_much(digits: Callable[..., Any]) -> None:
    model, x, y = digits(count=8)
    calls = []
    handle = model.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    reach, cost = [], []
    for abort in (False, True):
        calls.clear()
        attack = CarliniWagnerL2(L2(1), steps=150, search_steps=4, learning_rate=0.05, abort_early=abort)
        reach.append(attack.closest(model, x, y).distance)
        cost.append(sum(calls))
    handle.remove()
    assert cost[1] < 0.9 * cost[0]
    assert bool(reach[0].isfinite().all())
    assert reach[1].mean() <= 1.02 * reach[0].mean()


@pytest.mark.parametrize("threat", [L2(0.7), Linf(0.15)])
def test_under_a_budget_images_are_done_once_inside(digits: Callable[..., Any], threat: Any) -> None:
    model, x, y = digits(count=30)
    calls = []
    attack = CarliniWagnerL2(threat, steps=60, search_steps=4, initial_const=0.1, learning_rate=0.05)
    handle = model.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    result = attack(model, x, y)
    inside, calls = sum(calls), []
    nearest = attack.closest(model, x, y)
    handle.remove()
    assert bool((threat.geometry.distance(result.x_adv, x) <= threat.eps + 1e-5).all())
    assert inside < 0.9 * sum(calls)
    if threat.norm == "l2":
        assert bool(((nearest.distance <= 0.7) <= result.success).all())
    assert 0.2 < result.success.float().mean() < 1


def test_mistakes_are_named() -> None:
    for settings in ({"steps": 0}, {"search_steps": 0}, {"kappa": -1.0}):
        with pytest.raises(ValueError, match=r"must be at least 1|must not be negative"):
            CarliniWagnerL2(L2(1), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("targeted", [False, True])
def test_images_already_wrong_are_at_distance_zero_and_kept(digits: Callable[..., Any], targeted: bool) -> None:
    model, x, _ = digits(count=6)
    said = model(x).logits.argmax(1)
    y, targets = (said + 1) % 10, said if targeted else None
    attack = CarliniWagnerL2(L2(1), steps=3, search_steps=1)
    found = attack.closest(model, x, y, targets=targets)
    assert torch.equal(found.x_adv, x)
    assert not found.distance.any()
    assert torch.equal(attack.perturb(model, x, y, targets=targets), x)
