"""A small robust-ish classifier of real 8x8 digits, with any number of classes, for the tests of attacks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from protoat.types import Output


class Net(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, padding=1), nn.ReLU(), nn.Flatten()
        )
        self.head = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Output:
        embedding = self.features(x)
        return Output(self.head(embedding), embedding)


class Case(NamedTuple):
    model: Net
    x: Tensor
    y: Tensor


@cache
def build(classes: int) -> Case:
    """The first `classes` digits and a network trained on one-step adversarial examples of them."""
    pixels, labels = load_digits(return_X_y=True)
    x = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    y = torch.tensor(labels)
    x, y = x[y < classes], y[y < classes]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Net(classes)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(60):
            rows = torch.randint(100, len(x), (128,))
            batch = (x[rows] + torch.empty_like(x[rows]).uniform_(-0.1, 0.1)).requires_grad_()
            (slope,) = torch.autograd.grad(F.cross_entropy(model(batch).logits, y[rows]), batch)
            batch = (batch + 0.1 * slope.sign()).clamp(0, 1).detach()
            optimizer.zero_grad()
            F.cross_entropy(model(batch).logits, y[rows]).backward()
            optimizer.step()
    torch.set_num_threads(threads)
    model.zero_grad()
    return Case(model.eval(), x[:100], y[:100])


@pytest.fixture
def digits() -> Callable[..., Case]:
    """``digits(classes=10, count=32)`` -> (model in eval mode, images, labels) that training did not see."""

    def case(classes: int = 10, count: int = 32) -> Case:
        model, x, y = build(classes)
        return Case(model, x[:count], y[:count])

    return case


@pytest.fixture
def accuracy() -> Callable[[nn.Module, Tensor, Tensor], float]:
    @torch.no_grad()
    def measure(model: nn.Module, x: Tensor, y: Tensor) -> float:
        return (model(x).logits.argmax(1) == y).float().mean().item()

    return measure
