"""Embeddings of clean and attacked images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from protoat.attacks import PGD
from protoat.data import Digits, ImageData
from protoat.evaluation.embedding import embed, embed_images
from protoat.models import LeNet
from protoat.plots.subject import said
from protoat.threats import Linf
from protoat.types import Output


@pytest.fixture
def network() -> nn.Module:
    return LeNet(10, 1, 8).train()


def test_clean_embeddings_are_those_of_a_plain_forward_whatever_the_batch(network: nn.Module) -> None:
    data, indices = Digits().load("test"), torch.tensor([5, 3, 400, 7])
    found = embed(network, data, indices, batch_size=3)
    assert network.training
    expected = network.eval()(data.images[indices].float() / 255)
    torch.testing.assert_close(found.embedding, expected.embedding.detach())
    assert torch.equal(found.predicted, expected.logits.argmax(1))
    assert torch.equal(found.images, data.images[indices].float() / 255)


def test_attacked_images_stay_in_the_ball_and_can_be_repeated(network: nn.Module) -> None:
    data, indices = Digits().load("test"), torch.arange(20)
    attack = PGD(Linf(0.1), steps=3)
    found = embed(network, data, indices, attack=attack, batch_size=8)
    distance = (found.images - data.images[indices].float() / 255).abs().amax()
    assert 0.09 < float(distance) <= 0.1 + 1e-6
    again = embed(network, data, indices, attack=attack, batch_size=8)
    assert torch.equal(found.images, again.images) and torch.equal(found.embedding, again.embedding)
    torch.testing.assert_close(found.embedding, network.eval()(found.images).embedding.detach())


def test_logits_that_are_no_numbers_say_no_class() -> None:
    class Spoilt(nn.Module):
        def forward(self, x: Tensor) -> Output:
            flat = x.flatten(1)
            return Output(torch.where(flat > 0.5, torch.nan, flat), flat)

    images = torch.tensor([[0.1, 0.2], [0.9, 0.1]]).view(2, 1, 1, 2)
    found = embed_images(Spoilt(), images)
    assert found.predicted.tolist() == [1, -1]
    data = ImageData(torch.zeros(2, 1, 1, 2, dtype=torch.uint8), torch.tensor([0, 1]), ("cat", "dog"))
    assert [said(data, each) for each in found.predicted] == ["dog", "no class (its logits are not finite)"]


def test_a_model_without_embeddings_and_an_empty_choice_are_refused() -> None:
    with pytest.raises(ValueError, match="returns logits only"):
        embed_images(nn.Flatten(), torch.zeros(2, 1, 2, 2))
    with pytest.raises(ValueError, match="no images"):
        embed_images(nn.Flatten(), torch.zeros(0, 1, 2, 2))
