from __future__ import annotations

import pytest
import torch
from torch import nn

from protoat.models import LeNet


def test_layers_are_those_of_the_paper() -> None:
    model = LeNet(10)
    stage = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    kinds = [*stage, *stage, nn.Flatten, nn.Linear, nn.ReLU]
    assert all(isinstance(part, kind) for part, kind in zip(model.features, kinds, strict=True))
    convolutions = [part for part in model.modules() if isinstance(part, nn.Conv2d)]
    assert [part.weight.shape for part in convolutions] == [(16, 1, 4, 4), (32, 16, 4, 4)]
    assert {(part.stride, part.padding) for part in convolutions} == {((2, 2), (1, 1))}
    assert [part.weight.shape for part in model.modules() if isinstance(part, nn.Linear)] == [(10, 100), (100, 1568)]
    assert model.embedding_dim == 100


@pytest.mark.parametrize("size", range(8, 41))
def test_any_image_size_works(size: int) -> None:
    assert LeNet(2, 3, size).eval()(torch.rand(1, 3, size, size)).embedding.shape == (1, 100)


def test_embedding_is_not_negative() -> None:
    assert (LeNet(10)(torch.rand(8, 1, 28, 28)).embedding >= 0).all()


@pytest.mark.parametrize("size", range(8, 41))
@pytest.mark.parametrize("channels", [1, 3])
def test_first_convolution_and_its_gradients_are_torchs(channels: int, size: int) -> None:
    first = LeNet(10, channels, size).features[0].double()
    x = torch.rand(3, channels, size, size, dtype=torch.float64, requires_grad=True)
    ours, theirs = first(x), nn.functional.conv2d(x, first.weight, stride=2, padding=1)
    torch.testing.assert_close(ours, theirs)
    seed = torch.randn_like(ours)
    for mine, reference in zip(
        torch.autograd.grad(ours, (x, first.weight), seed),
        torch.autograd.grad(theirs, (x, first.weight), seed),
        strict=True,
    ):
        torch.testing.assert_close(mine, reference)
