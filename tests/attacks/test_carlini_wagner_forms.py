"""The L0 and the L-inf attack of Carlini and Wagner against slow references, a closed form and another library."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from protoat.attacks import CarliniWagnerL0, CarliniWagnerL2, CarliniWagnerLinf
from protoat.attacks.carlini_wagner_l0 import freeze
from protoat.functional.norms import norm_of
from protoat.threats import L2, Linf
from tests.contracts.parts import Logits

SHORT = {"steps": 20, "initial_const": 0.2, "largest_const": 6.0, "learning_rate": 0.1}


def lead(logits: Tensor, label: int, target: int | None) -> Tensor:
    """By how much the goal is ahead, for one image."""
    goal, sign = (label, 1.0) if target is None else (target, -1.0)
    others = torch.cat([logits[:goal], logits[goal + 1 :]])
    return sign * (others.max() - logits[goal])


def solve(net: nn.Module, w: Tensor, goal: tuple[int, int | None], const: float, **how: Any) -> Any:
    """The authors' inner search for one image, with torch's own Adam: (w, image, const), or None where it fails."""
    w = w.clone().requires_grad_()
    adam = torch.optim.Adam([w], lr=how["learning_rate"])
    while const < how["largest_const"]:
        for _ in range(how["steps"]):
            image = how["image"]((torch.tanh(w) + 1) / 2)
            ahead, cost = lead(net(image[None])[0], *goal), how["cost"](image)
            if ahead > 0 and ahead >= how["kappa"] and how["kept"](float(cost.detach()), const):
                return w.detach(), image.detach(), const
            adam.zero_grad()
            (cost + const * (how["kappa"] - ahead).clamp_min(0)).backward()
            adam.step()
        const *= 2
    return None


def fewest(net: nn.Module, x: Tensor, label: int, target: int | None) -> Tensor | None:
    """Section VI-B for one image: solve, freeze the pixels that matter least, solve again."""
    free = torch.ones(x.shape[1:], dtype=torch.bool)
    w, const, last = torch.atanh((2 * x - 1) * 0.999), SHORT["initial_const"], None
    while bool(free.any()):
        found = solve(
            net,
            w,
            (label, target),
            const,
            kappa=0.01,
            image=lambda image, free=free: torch.where(free, image, x),
            cost=lambda image: ((image - x) ** 2).sum(),
            kept=lambda cost, const: True,
            **{key: SHORT[key] for key in ("steps", "largest_const", "learning_rate")},
        )
        if found is None:
            return last
        w, last, const = found
        leaf = last.clone().requires_grad_()
        (slope,) = torch.autograd.grad(lead(net(leaf[None])[0], label, target), leaf)
        matters = ((last - x).abs() * slope.abs()).sum(0).flatten().tolist()
        changed = int(((last - x).abs() > 1e-4).any(0).sum())
        flat, frozen = free.flatten(), 0
        for pixel in sorted(range(len(matters)), key=lambda pixel: matters[pixel]):
            if flat[pixel]:
                flat[pixel] = False
                frozen += 1
                if matters[pixel] > 0.01 or frozen >= 0.3 * math.sqrt(changed):
                    break
        free = flat.view(free.shape)
    return last


def flattest(net: nn.Module, x: Tensor, label: int, target: int | None) -> Tensor | None:
    """Section VI-C for one image: solve under tau, shrink tau, solve again."""
    w, const, tau, last = torch.atanh((2 * x - 1) * 0.999), SHORT["initial_const"], 1.0, None
    while tau > 1 / 256:
        found = solve(
            net,
            w,
            (label, target),
            const,
            kappa=0.0,
            image=lambda image: image,
            cost=lambda image, tau=tau: ((image - x).abs() - tau).clamp_min(0).sum(),
            kept=lambda cost, const: cost < 1e-4 * const,
            **{key: SHORT[key] for key in ("steps", "largest_const", "learning_rate")},
        )
        if found is None:
            return last
        w, last, const = found
        tau = 0.9 * min(tau, float((last - x).abs().max()))
    return last


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(("kind", "slowly"), [(CarliniWagnerL0, fewest), (CarliniWagnerLinf, flattest)])
def test_the_authors_algorithm_image_by_image(
    digits: Callable[..., Any], kind: Any, slowly: Callable[..., Tensor | None], targeted: bool
) -> None:
    model, x, y = digits(count=3)
    model, x = model.double(), x.double()
    try:
        targets = (y + 1) % 10 if targeted else None
        ours = kind(L2(1), **SHORT).closest(model, x, y, targets=targets)
        for row in range(len(x)):
            target = None if targets is None else int(targets[row])
            theirs = slowly(Logits(model), x[row], int(y[row]), target)
            assert (theirs is None) == bool(ours.distance[row].isinf())
            if theirs is not None:
                torch.testing.assert_close(ours.x_adv[row], theirs, rtol=0, atol=1e-6)
        assert bool(ours.distance.isfinite().any())
    finally:
        model.float()


@pytest.mark.parametrize("channels", [1, 3])
def test_the_l0_attack_finds_the_one_pixel_that_decides(channels: int) -> None:
    torch.manual_seed(0)
    x, y = 0.5 + 0.1 * torch.rand(6, channels, 4, 4), torch.zeros(6, dtype=torch.int64)
    layer = nn.Linear(16 * channels, 2, bias=False)
    weight = 0.01 * torch.rand(channels, 4, 4)
    weight[:, 2, 1] = 3.0
    layer.weight.data = torch.stack([torch.zeros(16 * channels), weight.flatten()])
    layer.bias = nn.Parameter(torch.tensor([(weight * 0.75).sum(), 0.0]))
    found = CarliniWagnerL0(L2(1), steps=200, initial_const=0.1).closest(nn.Sequential(nn.Flatten(), layer), x, y)
    assert torch.equal(found.distance, torch.ones(6))
    moved = (found.x_adv != x).any(1)
    assert bool(moved[:, 2, 1].all()) and int(moved.sum()) == 6


def test_linf_distance_on_a_linear_model() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    x = 0.5 + 0.05 * torch.randn(10, 1, 4, 4)
    logits = model(x).detach()
    weight = model[1].weight[0] - model[1].weight[1]
    exact = (logits[:, 0] - logits[:, 1]).abs() / weight.abs().sum().detach()
    attack = CarliniWagnerLinf(Linf(1), steps=80, initial_const=1.0, largest_const=3.0, learning_rate=0.03)
    found = attack.closest(model, x, logits.argmax(1))
    assert bool((found.distance >= exact * (1 - 1e-4)).all())
    assert bool((found.distance <= exact * 1.12 + 1 / 256).all())


def test_each_form_is_least_in_its_own_norm(digits: Callable[..., Any]) -> None:
    model, x, y = digits(count=6)
    l0 = CarliniWagnerL0(L2(1), **SHORT)
    flat = CarliniWagnerLinf(L2(1), **SHORT)
    round_ = CarliniWagnerL2(L2(1), steps=100, search_steps=6, initial_const=0.1, learning_rate=0.05)
    images = {name: attack.closest(model, x, y).x_adv for name, attack in (("0", l0), ("2", round_), ("i", flat))}

    def mean(name: str, norm: Any) -> float:
        far = l0.length(images[name], x) if norm == "l0" else norm_of(norm).distance(images[name], x)
        return float(far.mean())

    assert mean("0", "l0") < mean("2", "l0") / 3
    assert mean("i", "linf") < mean("2", "linf") - 0.01
    assert mean("2", "l2") < min(mean("0", "l2"), mean("i", "l2"))


@pytest.mark.parametrize("kind", [CarliniWagnerL0, CarliniWagnerLinf])
@pytest.mark.parametrize("threat", [Linf(0.2), L2(0.9)])
def test_success_is_judged_by_the_budget(digits: Callable[..., Any], kind: Any, threat: Any) -> None:
    model, x, y = digits(count=15)
    result = kind(threat, **SHORT)(model, x, y)
    assert bool((threat.geometry.distance(result.x_adv, x) <= threat.eps + 1e-5).all())
    assert 0.1 < result.success.float().mean() < 1
    said = model(x).logits.argmax(1)
    assert torch.equal(kind(threat, **SHORT).perturb(model, x, (said + 1) % 10), x)  # already wrong


def test_freeze_takes_what_matters_least() -> None:
    matters = torch.tensor([[0.5, 0.002, 0.3, 0.001, 0.003, 0.2]]).repeat(3, 1)
    free = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 1, 1], [1, 0, 1, 0, 0, 0]]).bool()
    left = freeze(matters, free, torch.tensor([36, 400, 400]))  # at most 2, 6 and 6
    assert left.int().tolist() == [[1, 0, 1, 0, 1, 1], [1, 0, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"kappa": -1.0}, "kappa=-1 must not be negative"),
        ({"const_factor": 1.0}, "const_factor=1 is outside"),
        ({"initial_const": 0.0}, "initial_const=0"),
        ({"learning_rate": -0.1}, "learning_rate=-0.1"),
    ],
)
@pytest.mark.parametrize("kind", [CarliniWagnerL0, CarliniWagnerLinf])
def test_mistakes_are_named(kind: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(L2(1), **settings)
    with pytest.raises(ValueError, match="tau_factor=1 is outside"):
        CarliniWagnerLinf(L2(1), tau_factor=1.0)


@pytest.mark.slow
def test_art_finds_nothing_nearer(digits: Callable[..., Any]) -> None:
    classifiers = pytest.importorskip("art.estimators.classification")
    evasion = pytest.importorskip("art.attacks.evasion")
    model, x, y = digits(count=4)
    wrapped = classifiers.PyTorchClassifier(
        Logits(model), nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0, 1), device_type="cpu"
    )
    options = {"confidence": 0.0, "targeted": False, "learning_rate": 0.05, "max_iter": 40, "verbose": False}
    theirs = {
        "l0": evasion.CarliniL0Method(wrapped, binary_search_steps=5, initial_const=0.1, **options),
        "linf": evasion.CarliniLInfMethod(wrapped, initial_const=0.1, largest_const=200.0, **options),
    }
    ours = {"l0": CarliniWagnerL0(L2(1), **SHORT), "linf": CarliniWagnerLinf(L2(1), **SHORT)}
    for name, attack in ours.items():
        images = torch.tensor(theirs[name].generate(x.numpy(), y.numpy()))
        found = attack.closest(model, x, y)
        success = (model(images).logits.argmax(1) != y) & found.distance.isfinite()
        assert found.distance.isfinite().all() and success.sum() >= 3
        assert found.distance[success].mean() <= 1.05 * attack.length(images, x)[success].mean()
