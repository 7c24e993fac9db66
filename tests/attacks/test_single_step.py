"""R+FGSM and FFGSM against their formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from protoat.attacks import FFGSM, PGD, RFGSM
from protoat.threats import L2, Linf, ThreatModel


def slope(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(model(x).logits, y, reduction="sum"), x)[0]


@pytest.mark.parametrize("targeted", [False, True])
def test_rfgsm_formula(digits: Callable[..., Any], targeted: bool) -> None:
    model, x, y = digits(count=8)
    eps, alpha = 0.2, 0.05
    targets = (y + 1) % 10 if targeted else None
    ours = RFGSM(Linf(eps), alpha=alpha, seed=3).perturb(model, x, y, targets=targets)
    noise = torch.empty_like(x).normal_(generator=torch.Generator().manual_seed(3))
    start = (x + alpha * noise.sign()).clamp(0, 1)
    step = -slope(model, start, targets).sign() if targeted else slope(model, start, y).sign()
    torch.testing.assert_close(ours, (start + (eps - alpha) * step).clamp(x - eps, x + eps).clamp(0, 1))


@pytest.mark.parametrize("targeted", [False, True])
def test_ffgsm_is_one_long_step_from_a_uniform_start_that_is_not_cut(
    digits: Callable[..., Any], targeted: bool
) -> None:
    model, x, y = digits(count=8)
    targets = (y + 1) % 10 if targeted else None
    ours = FFGSM(Linf(0.2), seed=3).perturb(model, x, y, targets=targets)
    start = x + 0.2 * torch.empty_like(x).uniform_(-1, 1, generator=torch.Generator().manual_seed(3))
    step = 0.25 * (-slope(model, start, targets).sign() if targeted else slope(model, start, y).sign())
    assert float(start.min()) < 0
    torch.testing.assert_close(ours, (start + step).clamp(x - 0.2, x + 0.2).clamp(0, 1))


@pytest.mark.parametrize("threat", [Linf(0.15), L2(1.0)])
@pytest.mark.parametrize("attack", [RFGSM, FFGSM])
def test_one_gradient_hurts_less_than_many(
    digits: Callable[..., Any], attack: Callable[[ThreatModel], Any], threat: ThreatModel
) -> None:
    model, x, y = digits(count=100)
    clean = (model(x).logits.argmax(1) == y).float().mean()
    once = attack(threat)(model, x, y).correct.float().mean()
    assert PGD(threat, steps=20)(model, x, y).correct.float().mean() <= once < clean - 0.1


@pytest.mark.parametrize("alpha", [0.0, 0.3, "8/255"])
def test_alpha_must_leave_room_for_the_gradient(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"outside \(0, eps="):
        RFGSM(Linf("8/255"), alpha=alpha)
