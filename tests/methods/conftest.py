"""A small network with batch norm and embeddings, and a batch for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from protoat.types import Output

MakeNet = Callable[..., nn.Module]
MakeBatch = Callable[..., tuple[Tensor, Tensor]]


class SmallNet(nn.Module):
    def __init__(self, classes: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(4 * 16, 6),
            nn.BatchNorm1d(6),
            nn.ReLU(),
            nn.Dropout(dropout),
        )
        self.head = nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Output:
        embedding = self.features(x)
        return Output(self.head(embedding), embedding)


@pytest.fixture
def make_net() -> MakeNet:
    """``make_net(classes=3, channels=1, seed=0, dropout=0.0)``: images of 8 x 8 to `Output`, in training mode."""

    def make(classes: int = 3, channels: int = 1, seed: int = 0, dropout: float = 0.0) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return SmallNet(classes, channels, dropout).train()

    return make


@pytest.fixture
def make_batch() -> MakeBatch:
    """``make_batch(size=8, classes=3, channels=1, seed=1)``: images in [0.2, 0.8] and labels that hold every class."""

    def make(size: int = 8, classes: int = 3, channels: int = 1, seed: int = 1) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        images = 0.2 + 0.6 * torch.rand(size, channels, 8, 8, generator=generator)
        return images, torch.arange(size) % classes

    return make
