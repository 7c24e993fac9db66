"""The mean of a random model, and what attacks make of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from protoat.attacks import PGD
from protoat.models import MeanLogits
from protoat.threats import Linf
from protoat.types import Output


class Shaky(nn.Module):
    """A linear model whose weights tremble; its mean is the one that holds still."""

    def __init__(self, weight: Tensor, size: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.size = size

    def forward(self, x: Tensor) -> Output:
        flat = x.flatten(1)
        return Output(flat @ (self.weight + self.size * torch.randn_like(self.weight)).T, flat)


@pytest.mark.filterwarnings("ignore:(random|batch).*:RuntimeWarning")
def test_plain_gradients_mislead_and_those_of_the_mean_do_not() -> None:
    weight, x = torch.randn(4, 64), torch.rand(100, 1, 8, 8)
    still, shaky = Shaky(weight, 0.0), Shaky(weight, 5.0)
    y = still(x).logits.argmax(1)
    attack = PGD(Linf(0.1), steps=5)

    def left(model: nn.Module) -> int:
        return int((still(attack.perturb(model, x, y)).logits.argmax(1) == y).sum())

    assert left(still) < 10
    assert left(MeanLogits(shaky, 200)) < left(still) + 20 < left(shaky)


def test_each_draw_is_a_forward_of_its_own_and_all_weigh_alike() -> None:
    calls: list[int] = []

    class Counting(nn.Module):
        def forward(self, x: Tensor) -> Output:
            calls.append(len(x))
            return Output(x * len(calls), x + len(calls))

    output = MeanLogits(Counting(), draws=3)(torch.ones(2, 2))
    assert calls == [2, 2, 2]
    assert output.logits.tolist() == [[2, 2], [2, 2]]
    assert output.embedding.tolist() == [[3, 3], [3, 3]]
    assert MeanLogits(nn.Flatten(), draws=2)(torch.ones(2, 1, 1, 3)).embedding.shape == (2, 0)


def test_no_draws_are_refused() -> None:
    with pytest.raises(ValueError, match="draws=0 must be at least 1"):
        MeanLogits(nn.Flatten(), draws=0)
