from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.transforms.functional import normalize

from protoat.models.normalize import Normalize, normalization

MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]


def test_it_is_torchvisions_normalisation() -> None:
    x = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(Normalize(MEAN, STD)(x), normalize(x, MEAN, STD))


def test_one_number_serves_all_channels() -> None:
    x = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(Normalize([0.5], [0.5])(x), 2 * x - 1)


def test_numbers_are_in_checkpoints_and_are_not_learned() -> None:
    layer = Normalize(MEAN, STD)
    assert not list(layer.parameters())
    other = Normalize([0.0] * 3, [1.0] * 3)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.mean.flatten(), torch.tensor(MEAN))


def test_half_of_the_numbers_is_enough() -> None:
    x = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(normalization(MEAN, None)(x), normalize(x, MEAN, [1.0] * 3))
    torch.testing.assert_close(normalization(None, STD)(x), normalize(x, [0.0] * 3, STD))
    assert isinstance(normalization(None, None), nn.Identity)


def test_mistakes_are_told() -> None:
    with pytest.raises(ValueError, match=r"std=0 must be positive"):
        Normalize([0.0, 0.0], [0.1, 0.0])
    with pytest.raises(ValueError, match="std=nan"):
        Normalize([0.0], [float("nan")])
    with pytest.raises(ValueError, match="mean has 1 and std 2 numbers"):
        Normalize([0.0], [1.0, 1.0])
    with pytest.raises(ValueError, match=r"images have shape \(2, 1, 4, 4\), expected \(B, 3, H, W\)"):
        Normalize(MEAN, STD)(torch.rand(2, 1, 4, 4))
