"""PMA against a loop over single images written from its equations, and its loss against softmax."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from protoat.attacks import PMA
from protoat.functional.margins import own_probability, probability_margin
from protoat.threats import L2, Linf, ThreatModel
from protoat.types import Output


def gradient(loss: Callable[[Output, Tensor], Tensor], logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logits.clone().requires_grad_()
    value = loss(Output(leaf, leaf), y)
    return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_margin_is_that_of_softmax_and_so_is_its_slope(classes: int) -> None:
    torch.manual_seed(0)
    logits, y = 3 * torch.randn(40, classes, dtype=torch.float64), torch.randint(classes, (40,))

    def plain(output: Output, y: Tensor) -> Tensor:
        p = output.logits.softmax(1)
        return p.scatter(1, y[:, None], -1.0).amax(1) - p.gather(1, y[:, None]).squeeze(1)

    for ours, theirs in zip(gradient(probability_margin, logits, y), gradient(plain, logits, y), strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(own_probability(Output(logits, logits), y), -logits.softmax(1)[range(40), y])


def test_slopes_do_not_round_away_where_the_label_is_certain() -> None:
    logits = torch.tensor([[60.0, 0.0, -1.0]])
    for loss in (own_probability, probability_margin):
        _, exact = gradient(loss, logits.double(), torch.tensor([0]))
        _, ours = gradient(loss, logits, torch.tensor([0]))
        torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=0)
        assert ours.sign().tolist() == [[-1, 1, 1]]


def slow(model: nn.Module, x: Tensor, y: Tensor, start: Tensor, *, threat: ThreatModel, steps: int) -> Tensor:
    """One image: p_y falls in the first half, the margin rises in the second, steps of 2 eps fall along a cosine."""
    here = start
    for k in range(steps):
        leaf = here.clone().requires_grad_()
        p = model(leaf).logits.softmax(1)[0]
        if int(p.argmax()) != int(y):
            return here
        others = torch.cat([p[: int(y)], p[int(y) + 1 :]])
        loss = -p[int(y)] if k < steps / 2 else others.max() - p[int(y)]
        (slope,) = torch.autograd.grad(loss, leaf)
        phase = (k if k < steps / 2 else k - steps // 2) / (steps // 2)
        size = 2 * threat.eps * 0.5 * (1 + math.cos(math.pi * phase))
        if threat.norm == "linf":
            here = (here + size * slope.sign()).clamp(x - threat.eps, x + threat.eps).clamp(0, 1)
        else:
            move = here + size * slope / slope.norm() - x
            here = (x + move * min(1.0, threat.eps / move.norm().item())).clamp(0, 1)
    return here


@pytest.mark.parametrize("threat", [Linf(0.12), L2(0.8)])
def test_batch_is_the_slow_loop_over_its_images(digits: Callable[..., Any], threat: ThreatModel) -> None:
    model, x, y = digits(count=12)
    model, x = deepcopy(model).double(), x.double()
    ours = PMA(threat, steps=20, seed=5).perturb(model, x, y)
    robust = (model(x).logits.argmax(1) == y).nonzero().flatten()
    starts = threat.geometry.random_start(x[robust], threat.eps, torch.Generator().manual_seed(5))
    for row, start in zip(robust, starts, strict=True):
        expected = slow(model, x[row][None], y[row], start[None], threat=threat, steps=20)
        torch.testing.assert_close(ours[row][None], expected, rtol=0, atol=1e-9)
    assert 0.2 < (model(ours).logits.argmax(1) == y).float().mean() < 0.9  # both kinds of image were compared
