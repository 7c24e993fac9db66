"""What holds for every network of the package."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from protoat.models import ImageClassifier, LeNet, ResNet18, ResNet50
from protoat.types import Output

MODELS: dict[str, tuple[Callable[..., ImageClassifier], tuple[int, int]]] = {
    "lenet": (LeNet, (1, 28)),
    "lenet, digits": (LeNet, (1, 8)),
    "lenet, odd": (LeNet, (2, 13)),
    "resnet18": (partial(ResNet18, width=0.125), (3, 32)),
    "resnet18, digits": (partial(ResNet18, width=0.0625), (1, 8)),
    "resnet50": (partial(ResNet50, width=0.125), (3, 32)),
    "resnet50, tiny": (partial(ResNet50, width=0.0625), (3, 64)),
}
NAMES = pytest.mark.parametrize("name", MODELS)


def build(name: str, **options: Any) -> tuple[ImageClassifier, Tensor]:
    make, (channels, size) = MODELS[name]
    return make(5, channels, size, **options), torch.rand(4, channels, size, size)


def gradients(model: nn.Module, x: Tensor) -> tuple[Output, Tensor, list[Tensor]]:
    x = x.detach().requires_grad_()
    output = model(x)
    of_x, *others = torch.autograd.grad(output.logits.square().sum() + output.embedding.sum(), [x, *model.parameters()])
    return output, of_x, others


@NAMES
def test_logits_are_the_head_of_the_embedding(name: str) -> None:
    model, x = build(name)
    output = model(x)
    assert isinstance(output, Output)
    assert output.logits.shape == (4, 5)
    assert output.embedding.shape == (4, model.embedding_dim)
    assert torch.equal(output.logits, model.head(output.embedding))


@NAMES
def test_every_parameter_learns(name: str) -> None:
    model, x = build(name)
    _, of_x, others = gradients(model, x)
    assert of_x.abs().sum() > 0
    assert all(gradient.isfinite().all() and gradient.abs().sum() > 0 for gradient in others)


@NAMES
def test_normalisation_is_inside(name: str) -> None:
    plain, x = build(name)
    channels = x.shape[1]
    mean, std = [0.3 + 0.1 * c for c in range(channels)], [0.2 + 0.1 * c for c in range(channels)]
    model, _ = build(name, mean=mean, std=std)
    model.load_state_dict(plain.state_dict(), strict=False)
    view = (1, -1, 1, 1)
    by_hand = (x - torch.tensor(mean).view(view)) / torch.tensor(std).view(view)
    torch.testing.assert_close(model.eval()(x), plain.eval()(by_hand))


@NAMES
def test_channels_last_gives_the_same(name: str) -> None:
    model, x = build(name)
    model = model.double().eval()
    expected = gradients(model, x.double())
    got = gradients(
        copy.deepcopy(model).to(memory_format=torch.channels_last), x.double().to(memory_format=torch.channels_last)
    )
    torch.testing.assert_close(got, expected)


@NAMES
def test_state_comes_back(name: str) -> None:
    model, x = build(name)
    model(x)
    other, _ = build(name)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other.eval()(x), model.eval()(x), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["lenet", "resnet18, digits"])
def test_it_compiles_without_a_break(name: str) -> None:
    model, x = build(name)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(model.eval(), fullgraph=True, backend="eager")(x), model(x))


def test_mistakes_in_use_are_told() -> None:
    model = ResNet18(10, width=0.0625)
    for x in (torch.rand(2, 1, 32, 32), torch.rand(2, 3, 28, 28), torch.rand(3, 32, 32), torch.rand(2, 3072)):
        with pytest.raises(ValueError, match=r"expected \(B, 3, 32, 32\) in floating point"):
            model(x)
    with pytest.raises(ValueError, match=r"type torch.uint8, expected .* pixels in \[0, 1\]"):
        model(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))


@pytest.mark.parametrize("make", [LeNet, ResNet18, ResNet50])
def test_mistakes_in_building_are_told(make: Callable[..., ImageClassifier]) -> None:
    with pytest.raises(ValueError, match=r"num_classes=10, in_channels=1, image_size=3; expected at least 1, 1 and 8"):
        make(10, 1, 3)
    with pytest.raises(ValueError, match="num_classes=0, in_channels=1"):
        make(0, 1, 28)
    with pytest.raises(ValueError, match="num_classes=10, in_channels=0"):
        make(10, 0, 28)
    with pytest.raises(
        ValueError, match="std has 2 numbers, expected one for each of 3 channels; give as many, or none"
    ):
        make(10, 3, 28, mean=[0.5] * 3, std=[0.5] * 2)
    with pytest.raises(ValueError, match=r"std=0 must be positive"):
        make(10, 1, 28, std=[0.0])
