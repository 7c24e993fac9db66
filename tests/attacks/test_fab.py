"""FAB against closed forms on linear models and against AutoAttack's."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from protoat.attacks import FAB, FABT
from protoat.attacks.examination import MeasurementWarning
from protoat.functional.norms import norm_of
from protoat.threats import L1, L2, Linf, ThreatModel
from tests.contracts.parts import Logits


def linear(classes: int) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, classes))
    x = 0.5 + 0.05 * torch.randn(20, 1, 6, 6)  # far from the faces of the box, which then play no part
    return model, x, model(x).argmax(1)


def exact(model: Any, x: Tensor, y: Tensor, norm: str) -> Tensor:
    """Distance to the nearest boundary of a linear model."""
    weight, logits = model[1].weight, model(x)
    lead = logits.gather(1, y[:, None]) - logits
    normal = weight[y][:, None] - weight[None]
    if norm == "l1":  # one pixel may not be enough
        planes = normal.detach().flatten(0, 1), lead.detach().flatten()
        steps = norm_of("l1").onto_plane(x.flatten(1).repeat_interleave(len(weight), 0), -planes[0], planes[1])
        return steps.abs().sum(1).view_as(lead).scatter(1, y[:, None], torch.inf).amin(1)
    length = normal.abs().sum(2) if norm == "linf" else normal.norm(dim=2)
    return (lead / length.clamp_min(1e-12)).scatter(1, y[:, None], torch.inf).amin(1).detach()


@pytest.mark.parametrize("attack", [FAB, FABT])
@pytest.mark.parametrize("threat", [Linf(0.3), L2(1), L1(3)])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_distance_on_a_linear_model_is_exact(attack: Callable[..., Any], threat: ThreatModel, classes: int) -> None:
    model, x, y = linear(classes)
    found = attack(threat).closest(model, x, y)
    best = exact(model, x, y, threat.norm)
    assert bool((found.distance >= best * (1 - 1e-4)).all())
    assert bool((found.distance <= best * 1.06).all())  # one step aims 5 % beyond the boundary


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(("threat", "norm"), [(Linf(0.12), "Linf"), (L2(0.7), "L2"), (L1(2.5), "L1")])
def test_autoattack_s_own_finds_nothing_nearer(
    digits: Callable[..., Any], threat: ThreatModel, norm: str, targeted: bool
) -> None:
    theirs = pytest.importorskip("pyautoattack.fab_pt")
    model, x, y = digits(count=30)
    x, y = x[(right := model(x).logits.argmax(1) == y)], y[right]
    ours = (FABT(threat, steps=20, num_targets=3) if targeted else FAB(threat, steps=20)).closest(model, x, y)
    other = theirs.FABAttack_PT(
        Logits(deepcopy(model)), norm=norm, eps=threat.eps, n_iter=20, n_restarts=1, device="cpu"
    )
    other.target_class = 2
    images = other.attack_single_run(x, y, is_targeted=targeted)
    move = (images - x).flatten(1)
    reach = torch.linalg.vector_norm(move, threat.geometry.order, dim=1)
    reach[model(images).logits.argmax(1) == y] = torch.inf
    assert bool(ours.distance.isfinite().all())
    assert (ours.distance <= 1.02 * reach + 1e-4).float().mean() > 0.9
    assert ours.distance.mean() <= 1.01 * reach[reach.isfinite()].mean()


def test_under_a_budget_only_what_lies_inside_counts(digits: Callable[..., Any]) -> None:
    model, x, y = digits(count=40)
    attack = FABT(Linf(0.12), steps=20)
    result, nearest = attack(model, x, y), attack.closest(model, x, y)
    # An image may lie inside by the budget's search and be missed by no search that goes on.
    assert bool((result.success <= (nearest.distance <= 0.12 + 1e-6)).all())
    assert bool(((nearest.distance <= 0.1199) <= result.success).all())
    assert 0.1 < result.success.float().mean() < 0.9


def test_restarts_begin_inside_the_radius_of_the_call(
    digits: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x, y = digits(count=10)
    radii: list[float] = []

    def spy(x: Tensor, radius: Tensor, *rest: Any) -> Tensor:
        radii.append(float(radius.max()))
        return start(x, radius, *rest)

    attack = FAB(Linf(0.3), steps=2, restarts=2)
    start = attack.norm.far_start
    monkeypatch.setattr(attack.norm, "far_start", spy)
    attack.perturb(model, x, y, eps=0.02)
    attack.closest(model, x, y)
    assert radii[0] == pytest.approx(0.01)
    assert 0.01 < radii[1] <= 0.15


def test_images_already_wrong_are_at_distance_zero_and_kept(digits: Callable[..., Any]) -> None:
    model, x, _ = digits(count=10)
    wrong = (model(x).logits.argmax(1) + 1) % 10
    nearest = FAB(Linf(0.1), steps=2).closest(model, x, wrong)
    assert nearest.distance.tolist() == [0.0] * 10
    assert torch.equal(nearest.x_adv, x)


def test_what_cannot_be_found_is_at_infinity() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    nn.init.zeros_(model[1].weight)
    x, y = torch.rand(5, 1, 2, 2), model[1].bias.argmax().repeat(5)
    with pytest.warns(MeasurementWarning, match="zero-gradient"):
        nearest = FAB(L2(1), steps=3).closest(model, x, y)
    assert bool(nearest.distance.isinf().all())
    assert torch.equal(nearest.x_adv, x)


def test_restarts_and_targets_only_come_nearer(digits: Callable[..., Any]) -> None:
    model, x, y = digits(count=20)
    one, many = (FABT(L2(1), steps=10, num_targets=count).closest(model, x, y).distance for count in (1, 4))
    again = FABT(L2(1), steps=10, num_targets=1, restarts=3).closest(model, x, y).distance
    assert bool((many <= one).all())
    assert bool((again <= one).all())
    assert again.sum() < one.sum()


def test_targets_are_reached(digits: Callable[..., Any]) -> None:
    model, x, y = digits(count=20)
    targets = (y + 1) % 10
    nearest = FAB(L2(1), steps=30).closest(model, x, y, targets=targets)
    found = nearest.distance.isfinite()
    assert found.float().mean() > 0.9
    assert torch.equal(model(nearest.x_adv).logits.argmax(1)[found], targets[found])


@pytest.mark.parametrize("settings", [{"steps": 0}, {"restarts": 0}, {"num_targets": 0}])
def test_mistakes_are_named(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        FABT(Linf(0.1), **settings)
