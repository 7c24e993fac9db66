"""A sound model of real digits, and defences that only look robust: each breaks another habit of attacks."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protoat.attacks import PGD, Attack
from protoat.data import Digits
from protoat.methods import Distillation
from protoat.objective import Objective
from protoat.threats import Linf

THREAT = Linf(0.2)
ATTACK = PGD(THREAT, steps=4)


class Noisy(nn.Module):
    """Draws noise for the input at each forward, so that gradients are those of another function each time."""

    def __init__(self, model: nn.Module, size: float) -> None:
        super().__init__()
        self.model = model
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x + self.size * torch.randn_like(x))


class Quantised(nn.Module):
    """Rounds the input to a few levels, which has no gradient anywhere."""

    def __init__(self, model: nn.Module, levels: int) -> None:
        super().__init__()
        self.model = model
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        return self.model((x * self.levels).round() / self.levels)


class Saturated(nn.Module):
    """Makes logits so large that cross-entropy is flat in float32."""

    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        self.model = model
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.model(x)


class BatchStatistics(nn.BatchNorm2d):
    """Batch norm that stays in train mode whatever it is told."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, self.weight, self.bias, training=True)


class StraightThrough(nn.Module):
    """For the attacker: the quantised model with the gradient of the model inside it (BPDA)."""

    def __init__(self, cheat: Quantised) -> None:
        super().__init__()
        self.cheat = cheat

    def forward(self, x: Tensor) -> Tensor:
        rounded = (x * self.cheat.levels).round() / self.cheat.levels
        return self.cheat.model(x + (rounded - x).detach())


def build(norm: type[nn.BatchNorm2d] = nn.BatchNorm2d, dropout: float = 0.0) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        norm(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, 2, padding=1),
        norm(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(256, 10),
    )


@cache
def trained(
    attack: Attack | None, norm: type[nn.BatchNorm2d] = nn.BatchNorm2d, dropout: float = 0.0, epochs: int = 6
) -> nn.Module:
    """A network trained on clean images, or on those of an attack, in eval mode; the same one at each call."""
    data = Digits().load("train")
    x, y = data.images.float() / 255, data.labels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(norm, dropout)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(64):
                batch = x[rows] if attack is None else attack.perturb(model, x[rows], y[rows])
                optimizer.zero_grad()
                F.cross_entropy(model(batch), y[rows]).backward()
                optimizer.step()
    model.zero_grad()
    return model.eval()


def sound() -> nn.Module:
    """A network that is as robust as it looks."""
    return trained(ATTACK, epochs=8)


@cache
def distilled(temperature: float = 100.0, epochs: int = 16) -> nn.Module:
    """A network that defensive distillation has trained, in eval mode; the same one at each call."""
    data = Digits().load("train")
    x, y = data.images.float() / 255, data.labels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, goal = build(), Objective(Distillation(THREAT, temperature=temperature))
        goal.prepare(model)
        optimizer = torch.optim.Adam([*model.parameters(), *goal.parameters()], lr=0.01)
        for epoch in goal.epochs(epochs, model, optimizer):
            for rows in epoch.batches(torch.randperm(len(x)).split(64)):
                for terms in goal.losses(model, x[rows], y[rows]):
                    optimizer.zero_grad()
                    terms.total.backward()
                    optimizer.step()
    return model.eval()
