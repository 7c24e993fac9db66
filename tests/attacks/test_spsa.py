"""SPSA against a loop over pixels, its estimate against the gradient, and both on a plateau."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from protoat.attacks import PGD, SPSA
from protoat.threats import L2, Linf, ThreatModel
from protoat.types import Output

STEPS, PAIRS, DELTA, RATE = 4, 6, 0.02, 0.05


def lead(model: nn.Module, pixels: list[float], label: int) -> float:
    """By how much the best wrong class is ahead, for one image cut to [0, 1]."""
    x = torch.tensor([min(max(pixel, 0.0), 1.0) for pixel in pixels], dtype=torch.float64).view(1, 1, 8, 8)
    with torch.no_grad():
        logits = model(x).logits[0].tolist()
    own = logits.pop(label)
    return max(logits) - own


def slow(model: nn.Module, x: list[float], label: int, threat: ThreatModel, seed: int) -> list[float]:
    """One image, one pixel at a time: Algorithm 1 of the paper with the Adam of Kingma & Ba."""
    generator = torch.Generator().manual_seed(seed)
    at, mean, square = list(x), [0.0] * 64, [0.0] * 64
    for step in range(1, STEPS + 1):
        gradient = [0.0] * 64
        for _ in range(PAIRS):
            drawn = torch.empty(1, 1, 8, 8, dtype=torch.float64).uniform_(-1, 1, generator=generator)
            signs = [math.copysign(1.0, value) for value in drawn.flatten().tolist()]
            above = lead(model, [p + DELTA * s for p, s in zip(at, signs, strict=True)], label)
            below = lead(model, [p - DELTA * s for p, s in zip(at, signs, strict=True)], label)
            for pixel, sign in enumerate(signs):
                gradient[pixel] += (above - below) / (2 * DELTA) / sign / PAIRS
        for pixel, slope in enumerate(gradient):
            mean[pixel] = 0.9 * mean[pixel] + 0.1 * slope
            square[pixel] = 0.999 * square[pixel] + 0.001 * slope**2
            root = math.sqrt(square[pixel] / (1 - 0.999**step)) + 1e-8
            at[pixel] += RATE * mean[pixel] / (1 - 0.9**step) / root
        moved = [new - old for new, old in zip(at, x, strict=True)]
        if threat.norm == "linf":
            moved = [min(max(move, -threat.eps), threat.eps) for move in moved]
        else:
            length = math.sqrt(sum(move**2 for move in moved))
            moved = [move * min(1.0, threat.eps / length) for move in moved]
        at = [min(max(old + move, 0.0), 1.0) for old, move in zip(x, moved, strict=True)]
        if lead(model, at, label) > 0:
            break
    return at


@pytest.mark.parametrize("threat", [Linf(0.12), L2(0.8)])
def test_each_image_alone_takes_the_steps_of_the_loop(digits: Callable[..., Any], threat: ThreatModel) -> None:
    model, x, y = digits(count=4)
    model, x = deepcopy(model).double(), x.double()
    attack = SPSA(threat, steps=STEPS, pairs=PAIRS, delta=DELTA, learning_rate=RATE, seed=5)
    right = model(x).logits.argmax(1) == y
    assert right.any()
    for image, label in zip(x[right], y[right], strict=True):
        ours = attack.perturb(model, image[None], label[None]).flatten()
        expected = torch.tensor(slow(model, image.flatten().tolist(), int(label), threat, 5), dtype=torch.float64)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-9)


def test_the_first_step_follows_the_gradient_where_it_is_steep(digits: Callable[..., Any]) -> None:
    model, x, y = digits(classes=2, count=20)  # of two classes the lead has no kink
    x = x.clamp(0.1, 0.9)
    right = model(x).logits.argmax(1) == y
    model, x, y = deepcopy(model).double(), x[right].double(), y[right]
    moved = SPSA(Linf(0.5), steps=1, pairs=4000, delta=1e-4, learning_rate=1e-4).perturb(model, x, y) - x
    images = x.clone().requires_grad_()
    logits = model(images).logits
    (slope,) = torch.autograd.grad(logits.gather(1, 1 - y[:, None]).sum() - logits.gather(1, y[:, None]).sum(), images)
    steep = slope.abs() > 0.5 * slope.abs().flatten(1).amax(1).view(-1, 1, 1, 1)
    assert steep.sum() > 40
    assert torch.equal(moved[steep].sign(), slope[steep].sign())


class Rounded(nn.Module):
    """Sees an image in nine levels of grey: its gradient is zero wherever there is one."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Output:
        return self.network((8 * x).round() / 8)


@pytest.mark.filterwarnings("ignore::protoat.attacks.examination.MeasurementWarning")
def test_it_crosses_the_plateaus_that_stop_gradients(
    digits: Callable[..., Any], accuracy: Callable[[nn.Module, Tensor, Tensor], float]
) -> None:
    model, x, y = digits(count=16)
    rounded, threat = Rounded(model), Linf(0.25)
    clean = accuracy(rounded, x, y)
    assert accuracy(rounded, PGD(threat, steps=10, random_start=False).perturb(rounded, x, y), y) == clean
    attack = SPSA(threat, steps=20, pairs=32, delta=0.1, learning_rate=0.03)
    assert accuracy(rounded, attack.perturb(rounded, x, y), y) < clean / 2
