"""The attack of TRADES, against torchattacks and against a loop from the equation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protoat.attacks import TPGD
from protoat.functional.losses import cross_entropy
from protoat.functional.norms import norm_of
from protoat.threats import L2, Linf

EPS = 8 / 255


@pytest.fixture
def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 4)
    ).eval()


def inner_images(count: int = 6) -> Tensor:
    """So far inside [0, 1] that neither the start nor the ball is cut."""
    return 0.2 + 0.6 * torch.rand(count, 3, 8, 8)


def test_equals_torchattacks_from_the_same_start(net: nn.Module) -> None:
    torchattacks = pytest.importorskip("torchattacks")
    x, y = torch.rand(6, 3, 8, 8), torch.arange(6) % 4
    x[0], x[1] = 0.0, 1.0
    theirs = torchattacks.TPGD(net, eps=EPS, alpha=2 / 255, steps=10)
    torch.manual_seed(5)
    expected = theirs(x, y)
    actual = TPGD(Linf(EPS), steps=10, step_size=2 / 255).perturb(net, x, y, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


def test_unlike_torchattacks_the_start_keeps_to_a_tiny_radius(net: nn.Module) -> None:
    torchattacks = pytest.importorskip("torchattacks")
    x, y, eps = inner_images(), torch.zeros(6, dtype=torch.int64), 1e-4
    reached = []
    net.register_forward_pre_hook(lambda _, images: reached.append((images[0].detach() - x).abs().max().item()))
    torchattacks.TPGD(net, eps=eps, alpha=eps, steps=1)(x, y)
    assert max(reached) > 0.001
    reached.clear()
    TPGD(Linf(eps), steps=1).craft(net, x, y)
    assert 0 < max(reached) < eps + 1e-6


def test_no_forward_leaves_the_pixel_range_which_the_code_of_the_authors_does(net: nn.Module) -> None:
    x = torch.cat([torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8)])
    seen = []
    net.register_forward_pre_hook(lambda _, images: seen.append(images[0].detach().clone()))
    TPGD(Linf(EPS), steps=2).craft(net, x, torch.zeros(4, dtype=torch.int64))
    assert len(seen) == 3
    assert min(images.min().item() for images in seen) == 0
    assert max(images.max().item() for images in seen) == 1


def test_equals_a_loop_from_the_equation_in_float64(net: nn.Module) -> None:
    net.double()
    x = inner_images().double()
    x[0] = 0.0  # here the range cuts
    noise = torch.empty_like(x).normal_(generator=torch.Generator().manual_seed(3))
    p = net(x).softmax(1).detach()
    expected = (x + 0.001 * noise).clamp(0, 1)
    for _ in range(4):
        expected.requires_grad_()
        q = net(expected).softmax(1)
        divergence = sum(p[i, c] * (p[i, c].log() - q[i, c].log()) for i in range(len(x)) for c in range(p.shape[1]))
        (gradient,) = torch.autograd.grad(divergence, expected)
        expected = expected.detach() + 0.01 * gradient.sign()
        expected = torch.min(torch.max(expected, x - EPS), x + EPS).clamp(0, 1)
    attack = TPGD(Linf(EPS), steps=4, step_size=0.01)
    generator = torch.Generator().manual_seed(3)
    actual = attack.perturb(net, x, torch.zeros(6, dtype=torch.int64), generator=generator)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_labels_do_not_matter_and_there_is_no_targeted_form(net: nn.Module) -> None:
    x, attack = inner_images(), TPGD(Linf(EPS))
    assert torch.equal(attack.perturb(net, x, torch.zeros(6).long()), attack.perturb(net, x, torch.full((6,), 3)))
    with pytest.raises(ValueError, match="no targeted form"):
        attack.perturb(net, x, torch.zeros(6).long(), targets=torch.ones(6).long())


def test_raises_another_loss_when_given_one(net: nn.Module) -> None:
    x = inner_images()
    y = net(x).argmax(1)
    loss = lambda images: F.cross_entropy(net(images), y).item()  # noqa: E731
    by_labels = TPGD(Linf(EPS), loss=cross_entropy).perturb(net, x, y)
    assert loss(by_labels) > loss(x) + 0.01
    other = TPGD(Linf(EPS), loss=cross_entropy).perturb(net, x, (y + 1) % 4)
    assert not torch.equal(by_labels, other)


@pytest.mark.parametrize("threat", [Linf(EPS), L2(0.5)], ids=["linf", "l2"])
def test_each_image_keeps_to_its_own_radius(net: nn.Module, threat: object) -> None:
    x, eps = inner_images(), threat.eps * torch.tensor([0.0, 0.25, 0.5, 1.0, 1.5, 2.0])
    x_adv = TPGD(threat).perturb(net, x, torch.zeros(6).long(), eps=eps)
    moved = threat.geometry.distance(x_adv, x)
    assert bool((moved <= eps + 1e-6).all())
    assert moved[0] == 0
    assert bool((moved[1:] > 0.5 * eps[1:]).all())


def test_the_default_step_is_a_quarter_of_the_radius_and_scales_with_it(net: nn.Module) -> None:
    attack = TPGD(Linf(EPS), steps=1)
    assert attack.step_size == pytest.approx(2 / 255)
    x = inner_images(1)
    full = attack.perturb(net, x, torch.zeros(1).long())
    half = attack.perturb(net, x, torch.zeros(1).long(), eps=EPS / 2)
    assert norm_of("linf").distance(full, x).item() == pytest.approx(2 / 255 + 0.003, abs=0.003)
    assert norm_of("linf").distance(half, x).item() == pytest.approx(1 / 255 + 0.003, abs=0.003)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="steps=0 must be at least 1"):
        TPGD(Linf(EPS), steps=0)
    with pytest.raises(ValueError, match="step_size=-1 must be positive"):
        TPGD(Linf(EPS), step_size=-1.0)
