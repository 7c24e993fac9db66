from __future__ import annotations

import pytest
import torch
from torch import nn

from protoat.models import LeNet


def test_layers_are_those_of_the_paper() -> None:
    model = LeNet(10)
    stage = ["Conv2d", "BatchNorm2d", "ReLU"]
    assert [type(part).__name__ for part in model.features] == [*stage, *stage, "Flatten", "Linear", "ReLU"]
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
