"""Finetuning of a part: what learns moves, all else stays, in every mode."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from protoat.data import ImageData, ImageLoader
from protoat.methods import FastAT
from protoat.models import FrozenBatchNorm, LeNet, ResNet18, freeze_all_but
from protoat.objective import Objective
from protoat.threats import Linf
from protoat.training import fit, load_weights, parameter_groups

X = torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(2))
PARTS = {
    "head": ("head.",),
    "last_block": ("head.", "features.layer4."),
    "all": ("head.", "features."),
}


def resnet() -> ResNet18:
    torch.manual_seed(1)
    model = ResNet18(3, 3, 16, width=0.125)
    model.train()(X)  # moves the running statistics from where they begin
    return model


@pytest.mark.parametrize("part", PARTS)
def test_only_the_part_moves_in_training_and_attack(part: str, tmp_path: Path) -> None:
    model = freeze_all_but(resnet(), part)  # type: ignore[arg-type]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    objective = Objective(FastAT(Linf(0.1), bn="train"))  # an attack that uses batch statistics and moves running ones
    optimizer = torch.optim.SGD(parameter_groups(model, objective, lr=0.1, weight_decay=0.1), lr=0.1)
    images = ImageData((X * 255).byte(), torch.arange(16) % 3, ("a", "b", "c"))
    loader = ImageLoader(images, batch_size=8)
    fit(model, loader, objective, epochs=1, optimizer=optimizer, out=tmp_path, loggers=[])
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if name.startswith(PARTS[part])}
    plain = resnet()
    load_weights(tmp_path / "last.safetensors", plain)
    assert torch.equal(plain.eval()(X).logits, model.eval()(X).logits)


def test_a_frozen_network_computes_the_same_in_both_modes() -> None:
    expected = resnet().eval()(X).embedding
    model = freeze_all_but(resnet(), "head")
    assert torch.equal(model.train()(X).embedding, expected)
    assert torch.equal(model.eval()(X).embedding, expected)
    assert model.state_dict().keys() == resnet().state_dict().keys()


def test_the_last_block_of_other_networks() -> None:
    def learning(model: nn.Module) -> list[str]:
        return [name for name, p in freeze_all_but(model, "last_block").named_parameters() if p.requires_grad]

    assert learning(LeNet(2)) == ["head.weight", "head.bias", "features.7.weight", "features.7.bias"]
    plain = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    assert learning(plain) == ["2.weight", "2.bias", "4.weight", "4.bias"]


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="finetune='tail' is unknown"):
        freeze_all_but(LeNet(2), "tail")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no block in front of its head"):
        freeze_all_but(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), "last_block")
    with pytest.raises(ValueError, match="no linear layer"):
        freeze_all_but(nn.Sequential(nn.Flatten()), "head")
    with pytest.raises(ValueError, match="without running statistics"):
        FrozenBatchNorm(nn.BatchNorm2d(3, track_running_stats=False))
