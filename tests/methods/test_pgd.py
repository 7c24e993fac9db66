"""One update of the methods that attack first and step once, against loops over a linear classifier in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from protoat.attacks import PGD
from protoat.functional.norms import norm_of
from protoat.methods import FGSMAT, PGDAT, AdversarialTraining, FastAT, Method, Standard
from protoat.objective import Objective
from protoat.threats import Linf

from . import linear
from .linear import Matrix

LR = 0.5
EPS = 0.1

pixel = st.floats(0, 1)
weight = st.floats(-3, 3)
images = st.lists(st.lists(pixel, min_size=4, max_size=4), min_size=1, max_size=4)
weights = st.lists(st.lists(weight, min_size=4, max_size=4), min_size=2, max_size=3)


def updated(method: Method, w: Matrix, x: Matrix, y: list[int], seed: int = 5) -> Matrix:
    """Weights after one update by the package."""
    net = linear.network(w)
    optimizer = torch.optim.SGD(net.parameters(), lr=LR)
    torch.manual_seed(seed)
    for terms in Objective(method).losses(net, linear.as_images(x), torch.tensor(y)):
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()
    return linear.as_rows(net[1].weight.detach())


def start(x: Matrix, eps: float, seed: int = 5) -> Matrix:
    """The random start that a method draws in this global random state."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(int(torch.randint(2**62, ()).item()))
    return linear.as_rows(norm_of("linf").random_start(linear.as_images(x), eps, generator))


def uncut_start(x: Matrix, eps: float, seed: int = 5) -> Matrix:
    """The same noise on the images, which may leave [0, 1]."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(int(torch.randint(2**62, ()).item()))
    noise = linear.as_rows(torch.empty_like(linear.as_images(x)).uniform_(-1, 1, generator=generator))
    return [[p + eps * n for p, n in zip(*rows, strict=True)] for rows in zip(x, noise, strict=True)]


def expected(w: Matrix, x_adv: Matrix, y: list[int]) -> Matrix:
    # The package takes the loss in float32 whatever the model computes in.
    return linear.sgd(w, linear.weight_gradient(w, x_adv, y), LR)


def assert_close(found: Matrix, wanted: Matrix) -> None:
    torch.testing.assert_close(torch.tensor(found), torch.tensor(wanted), rtol=1e-4, atol=1e-5)


def stays_clear_of_ties(w: Matrix, x: Matrix, y: list[int], eps: float) -> bool:
    """No pixel gradient so near to zero, anywhere in the ball, that rounding may decide its sign."""
    corners = [[min(1, max(0, p + s * eps)) for p in image] for image in x for s in (-1, 0, 1)]
    labels = [label for label in y for _ in range(3)]
    gradients = [linear.pixel_gradient(w, image, label) for image, label in zip(corners, labels, strict=True)]
    return all(abs(value) > 1e-4 for gradient in gradients for value in gradient)


CASE = {
    "w": [[1.0, -2.0, 0.5, 0.3], [-0.5, 1.5, 1.0, -1.0], [0.2, 0.4, -1.5, 2.0]],
    "x": [[0.1, 0.9, 0.5, 0.02], [0.7, 0.3, 0.99, 0.4], [0.0, 1.0, 0.2, 0.6]],
    "y": [0, 2, 1],
}


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("step_size", [None, 0.03, 0.2])
def test_pgdat(steps: int, step_size: float | None) -> None:
    w, x, y = CASE["w"], CASE["x"], CASE["y"]
    step = 2.5 * EPS / steps if step_size is None else step_size
    x_adv = linear.pgd(w, start(x, EPS), x, y, eps=EPS, step=step, steps=steps)
    found = updated(PGDAT(Linf(EPS), steps=steps, step_size=step_size), w, x, y)
    assert_close(found, expected(w, x_adv, y))
    x_adv = linear.pgd(w, x, x, y, eps=EPS, step=step, steps=steps)
    found = updated(PGDAT(Linf(EPS), steps=steps, step_size=step_size, random_start=False), w, x, y)
    assert_close(found, expected(w, x_adv, y))


@settings(max_examples=40)
@given(weights, images, st.data())
def test_any_classifier_and_images(w: Matrix, x: Matrix, data: Any) -> None:
    y = data.draw(st.lists(st.integers(0, len(w) - 1), min_size=len(x), max_size=len(x)))
    if stays_clear_of_ties(w, x, y, EPS):
        x_adv = linear.pgd(w, start(x, EPS), x, y, eps=EPS, step=0.05, steps=3)
        assert_close(updated(PGDAT(Linf(EPS), steps=3, step_size=0.05), w, x, y), expected(w, x_adv, y))
    assert_close(updated(Standard(Linf(EPS)), w, x, y), expected(w, x, y))


def test_fgsmat() -> None:
    w, x, y = CASE["w"], CASE["x"], CASE["y"]
    x_adv = linear.pgd(w, x, x, y, eps=EPS, step=EPS, steps=1)
    assert_close(updated(FGSMAT(Linf(EPS)), w, x, y), expected(w, x_adv, y))


@pytest.mark.parametrize("step_size", [None, 0.08, 0.3])
def test_fastat(step_size: float | None) -> None:
    """One step of 1.25 eps from a uniform start, projected; a longer step is legal because of the projection."""
    w, x, y = CASE["w"], CASE["x"], CASE["y"]
    assert min(map(min, uncut_start(x, EPS))) < 0
    x_adv = linear.pgd(w, uncut_start(x, EPS), x, y, eps=EPS, step=0.125 if step_size is None else step_size, steps=1)
    assert_close(updated(FastAT(Linf(EPS), step_size=step_size), w, x, y), expected(w, x_adv, y))


def test_any_attack_can_train() -> None:
    w, x, y = CASE["w"], CASE["x"], CASE["y"]
    attack = PGD(Linf(EPS), steps=4, step_size=0.02)
    x_adv = linear.pgd(w, start(x, EPS), x, y, eps=EPS, step=0.02, steps=4)
    assert_close(updated(AdversarialTraining(attack), w, x, y), expected(w, x_adv, y))


@pytest.mark.parametrize(("epoch", "share"), [(0.0, 0.0), (0.5, 0.25), (1.0, 0.5), (2.0, 1.0), (7.5, 1.0)])
def test_ramp_scales_radius_and_step(epoch: float, share: float) -> None:
    w, x, y = CASE["w"], CASE["x"], CASE["y"]
    method = PGDAT(Linf(EPS), steps=3, step_size=0.05, ramp_epochs=2)
    method.at_epoch(epoch)
    assert method.eps == pytest.approx(share * EPS)
    x_adv = linear.pgd(w, start(x, share * EPS), x, y, eps=share * EPS, step=share * 0.05, steps=3)
    assert_close(updated(method, w, x, y), expected(w, x_adv, y))
