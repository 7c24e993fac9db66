"""BIM, MIM and PGD on the margin, against loops and torchattacks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from protoat.attacks import BIM, CWPGD, MIM, PGD, TPGD
from protoat.functional.losses import cross_entropy, margin
from protoat.threats import L2, Linf, ThreatModel
from tests.contracts.parts import Logits

EPS, STEPS = 0.15, 6


@pytest.mark.parametrize("targeted", [False, True])
def test_mim_is_the_loop_of_the_paper(digits: Callable[..., Any], targeted: bool) -> None:
    model, x, y = digits(count=4)
    targets = (y + 3) % 10 if targeted else None
    ours = MIM(Linf(EPS), steps=STEPS, decay=0.7).perturb(model, x, y, targets=targets)
    for row in range(len(x)):
        image, label = x[row : row + 1], (y if targets is None else targets)[row : row + 1]
        point, momentum = image, torch.zeros_like(image)
        for _ in range(STEPS):
            point = point.detach().requires_grad_()
            (slope,) = torch.autograd.grad(F.cross_entropy(model(point).logits, label), point)
            momentum = 0.7 * momentum + slope / slope.abs().mean()
            point = point.detach() + (-1 if targeted else 1) * EPS / STEPS * momentum.sign()
            point = point.clamp(image - EPS, image + EPS).clamp(0, 1)
        assert (ours[row] != point[0]).float().mean() < 0.05
        torch.testing.assert_close(ours[row], point[0], atol=EPS / STEPS * 2.1, rtol=0)


@pytest.mark.parametrize("name", ["BIM", "MIFGSM"])
def test_torchattacks_agrees(digits: Callable[..., Any], name: str) -> None:
    torchattacks = pytest.importorskip("torchattacks")
    model, x, y = digits(count=16)
    step = EPS / STEPS
    theirs = getattr(torchattacks, name)(Logits(model), eps=EPS, alpha=step, steps=STEPS)(x, y)
    ours = (BIM if name == "BIM" else MIM)(Linf(EPS), steps=STEPS, step_size=step).perturb(model, x, y)
    # Both are sign methods: a gradient that rounds to another sign moves a pixel by a step.
    assert ((ours - theirs).abs() > 1e-5).float().mean() < 0.02


def test_mim_weighs_small_gradients_as_large_ones(digits: Callable[..., Any]) -> None:
    model, x, y = digits(count=16)
    attack = partial(MIM, Linf(EPS), steps=STEPS)
    small = attack(loss=lambda output, y: 1e-14 * cross_entropy(output, y)).perturb(model, x, y)
    assert (small != attack().perturb(model, x, y)).float().mean() < 0.001  # pixels whose gradient nearly cancels


def test_bim_starts_at_the_image(digits: Callable[..., Any]) -> None:
    model, x, y = digits(count=4)
    same = PGD(Linf(EPS), steps=3, random_start=False)
    assert torch.equal(BIM(Linf(EPS), steps=3).perturb(model, x, y), same.perturb(model, x, y))


@pytest.mark.parametrize("threat", [Linf(0.12), L2(0.8)])
def test_margin_attack_is_about_as_strong_as_cross_entropy(digits: Callable[..., Any], threat: ThreatModel) -> None:
    model, x, y = digits(count=100)
    margin_left = CWPGD(threat, steps=20)(model, x, y).correct.float().mean()
    assert abs(margin_left - PGD(threat, steps=20)(model, x, y).correct.float().mean()) < 0.05


def test_kappa_stops_the_climb_just_beyond_the_boundary(digits: Callable[..., Any]) -> None:
    model, x, y = digits(count=60)
    leads = []
    for kappa in (0.0, 50.0):
        result = CWPGD(Linf(0.3), steps=30, step_size=0.01, kappa=kappa)(model, x, y)
        leads.append(margin(model(result.x_adv), y)[result.success])
    assert len(leads[0]) > 30
    assert leads[0].median() < 0.3 * leads[1].median()


def test_targeted_margin_reaches_targets_from_far(digits: Callable[..., Any]) -> None:
    """Clipped on the wrong side, the margin would have no gradient where the target is far behind."""
    model, x, y = digits(count=32)
    targets = model(x).logits.argmin(1)
    targets = torch.where(targets == y, (y + 1) % 10, targets)
    start = margin(model(x), targets)
    assert start.max() > 1
    result = CWPGD(Linf(0.5), steps=20, kappa=0)(model, x, y, targets=targets)
    assert result.success.float().mean() > 0.9


def test_the_record_is_complete_and_mistakes_are_named() -> None:
    record = CWPGD(Linf(0.3), kappa=5, steps=7, restarts=2).parameters()
    assert (record["attack"], record["kappa"], record["steps"], record["restarts"]) == ("CWPGD", 5.0, 7, 2)
    with pytest.raises(ValueError, match="kappa=-1 must not be negative"):
        CWPGD(Linf(0.3), kappa=-1)
    with pytest.raises(ValueError, match="steps=0"):
        MIM(Linf(0.3), steps=0)


@pytest.mark.parametrize("kind", [PGD, BIM, MIM, CWPGD, TPGD])
@pytest.mark.parametrize("step_size", [0.0, -0.01, float("nan")])
def test_steps_that_lead_nowhere_are_refused(kind: Any, step_size: float) -> None:
    with pytest.raises(ValueError, match=r"step_size|pixel distance"):
        kind(Linf(0.3), step_size=step_size)
