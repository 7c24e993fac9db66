"""DeepFool against the loop of its paper and against foolbox."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from protoat.attacks import DeepFool
from protoat.functional.norms import norm_of
from protoat.threats import L1, L2, Linf, ThreatModel


def direction(w: Tensor, point: Tensor, norm: str) -> Tensor:
    if norm == "linf":
        return w.sign()
    if norm == "l2":
        return w / w.norm()
    free = w.abs() * torch.where(w > 0, point < 1, point > 0)  # one pixel, which must not be at its end
    return w.sign() * (free == free.max())


def slow_deepfool(model: nn.Module, x: Tensor, y: int, norm: str, steps: int) -> Tensor:
    """One image, one class after the other, as in the original."""
    total, point = torch.zeros_like(x), x
    for _ in range(steps):
        point = point.detach().requires_grad_()
        logits = model(point).logits[0]
        if logits.argmax() != y:
            break
        best = None
        slopes = [torch.autograd.grad(logits[k], point, retain_graph=True)[0] for k in range(len(logits))]
        for k in range(len(logits)):
            if k == y:
                continue
            w, f = slopes[k] - slopes[y], (logits[k] - logits[y]).item()
            length = {"linf": w.abs().sum(), "l2": w.norm(), "l1": w.abs().max()}[norm].item()
            if best is None or abs(f) / length < best[0]:
                best = abs(f) / length, w, abs(f)
        assert best is not None
        way = direction(best[1], point.detach(), norm)
        total = total + (best[2] / (best[1] * way).sum() + 1e-4) * way
        point = (x + 1.02 * total).clamp(0, 1)
    return point.detach()


@pytest.mark.parametrize("threat", [L2(1.0), Linf(0.15), L1(3.0)])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_batch_is_the_slow_loop(digits: Callable[..., Any], threat: ThreatModel, classes: int) -> None:
    model, x, y = digits(classes=classes, count=6)
    model, x = deepcopy(model).double(), x.double()
    nearest = DeepFool(threat).closest(model, x, y)
    for row in range(len(x)):
        slow = slow_deepfool(model, x[row : row + 1], int(y[row]), threat.norm, 50)
        torch.testing.assert_close(nearest.x_adv[row : row + 1], slow, atol=1e-4, rtol=1e-4)


def test_a_steep_pixel_at_its_end_makes_no_step_shorter() -> None:
    """Logits 0 and x0 + x1 / 100 - 1.005: x0 is 1 already, and x1 needs 0.3."""
    layer = nn.Linear(2, 2)
    layer.weight.data, layer.bias.data = torch.tensor([[0.0, 0.0], [1.0, 0.01]]), torch.tensor([0.0, -1.005])
    model = nn.Sequential(nn.Flatten(), layer).eval()
    x, y = torch.tensor([[[[1.0, 0.2]]]]), torch.tensor([0])
    assert float(DeepFool(L1(1)).closest(model, x, y).distance) == pytest.approx(0.3, rel=0.03)


@pytest.mark.parametrize(("threat", "name"), [(L2(1.0), "L2DeepFoolAttack"), (Linf(0.15), "LinfDeepFoolAttack")])
def test_foolbox_finds_nothing_nearer(digits: Callable[..., Any], threat: ThreatModel, name: str) -> None:
    foolbox = pytest.importorskip("foolbox")
    model, x, y = digits(count=40)
    logits = nn.Sequential(model, type("Head", (nn.Module,), {"forward": lambda _, output: output.logits})()).eval()
    attack = getattr(foolbox.attacks, name)(steps=50)
    _, images, _ = attack(foolbox.PyTorchModel(logits, bounds=(0, 1), device="cpu"), x, y, epsilons=[10.0])
    found = model(images[0]).logits.argmax(1) != y
    ours = DeepFool(threat).closest(model, x, y)
    both = found & ours.distance.isfinite()
    assert ours.distance.isfinite().sum() >= found.sum()
    assert ours.distance[both].mean() <= 1.01 * threat.geometry.distance(images[0], x)[both].mean()


def test_fewer_candidates_look_at_the_likeliest_classes_only(digits: Callable[..., Any]) -> None:
    model, x, y = digits(count=20)
    all_classes, one = (DeepFool(L2(1), candidates=count).closest(model, x, y).distance for count in (9, 1))
    assert all_classes.sum() < one.sum()


def test_under_a_budget_success_is_judged_after_projection(digits: Callable[..., Any]) -> None:
    model, x, y = digits(count=40)
    result = DeepFool(L2(0.5))(model, x, y)
    assert bool((norm_of("l2").distance(result.x_adv, x) <= 0.5 + 1e-5).all())
    inside = DeepFool(L2(0.5)).closest(model, x, y).distance <= 0.5
    assert bool((inside <= result.success).all())


def test_no_targets() -> None:
    with pytest.raises(ValueError, match="DeepFool has no targeted form"):
        DeepFool(L2(1))(nn.Flatten(), torch.rand(1, 2), torch.tensor([0]), targets=torch.tensor([1]))


@pytest.mark.parametrize("settings", [{"steps": 0}, {"candidates": 0}])
def test_mistakes_are_named(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        DeepFool(L2(1), **settings)
