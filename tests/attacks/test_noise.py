"""Random search: draws, corners, and what stops it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from protoat.attacks import CornerNoise, UniformNoise
from protoat.threats import L2, Linf, ThreatModel
from protoat.types import Output


class Counting(nn.Module):
    """Wrong where the first pixel is above `limit`; counts the images it sees."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Output:
        self.seen.append(len(x))
        first = x.flatten(1)[:, :1]
        return Output(torch.cat([torch.full_like(first, self.limit), first], 1), first)


@pytest.mark.parametrize("attack", [UniformNoise, CornerNoise])
@pytest.mark.parametrize(("count", "batch_size", "sizes"), [(4, 8, [8] * 5), (4, 2, [4] * 10), (3, 8, [6] * 5)])
def test_every_image_gets_all_its_draws_in_full_batches(
    attack: Callable[..., Any], count: int, batch_size: int, sizes: list[int]
) -> None:
    model = Counting(2.0)
    x = torch.full((count, 1, 2, 2), 0.5)
    attack(Linf(0.1), draws=10, batch_size=batch_size).craft(model, x, torch.zeros(count, dtype=torch.int64))
    assert model.seen == sizes
    assert sum(model.seen) == 10 * count


def test_images_leave_after_their_first_success() -> None:
    model = Counting(0.5)
    x = torch.full((64, 1, 2, 2), 0.5)
    result = CornerNoise(Linf(0.1), draws=40, batch_size=1)(model, x, torch.zeros(64, dtype=torch.int64))
    assert bool(result.success.all())
    inside = model.seen[2:-1]  # without the look at the model and the judgement
    assert inside == sorted(inside, reverse=True)
    assert sum(inside) == pytest.approx(128, abs=40)  # two draws each on average


def test_odds_are_those_of_the_noise() -> None:
    """A pixel uniform in [0.4, 0.6] is above 0.59 with 5 %, so one of ten draws is with 40 %."""
    x = torch.full((4000, 1, 1, 1), 0.5)
    result = UniformNoise(Linf(0.1), draws=10)(Counting(0.59), x, torch.zeros(4000, dtype=torch.int64))
    assert result.success.float().mean().item() == pytest.approx(1 - 0.95**10, abs=0.03)


@pytest.mark.parametrize("threat", [Linf(0.2), L2(0.7)])
def test_corners_use_the_whole_budget(digits: Callable[..., Any], threat: ThreatModel) -> None:
    model, _, y = digits(count=8)
    x = torch.full((8, 1, 8, 8), 0.5)
    x_adv = CornerNoise(threat, draws=1).perturb(model, x, y)
    torch.testing.assert_close(threat.geometry.distance(x_adv, x), torch.full((8,), threat.eps))
    assert (x_adv - x).abs().flatten().unique().numel() <= 4


@pytest.mark.parametrize("attack", [UniformNoise, CornerNoise])
@pytest.mark.parametrize("threat", [Linf(0.4), L2(4.0)])
def test_more_draws_find_more(digits: Callable[..., Any], attack: Callable[..., Any], threat: ThreatModel) -> None:
    model, x, y = digits(count=60)
    few, many = (attack(threat, draws=draws)(model, x, y).correct.sum() for draws in (1, 200))
    assert many < few


def test_no_draws_are_refused() -> None:
    with pytest.raises(ValueError, match="draws=0"):
        UniformNoise(Linf(0.1), draws=0)
