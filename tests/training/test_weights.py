"""Exported weights."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from protoat.training import load_weights
from protoat.training.weights import save_weights


@pytest.mark.parametrize("method", ["pgd", "free", "fast"])
def test_round_trip(method: str, tmp_path: Path, small: ModuleType) -> None:
    path = tmp_path / "best.safetensors"
    net, goal, _ = small.built(method)
    list(goal.losses(net, *next(iter(small.loader())))) if method != "free" else None
    save_weights(path, net, goal, {"epoch": 3})
    assert json.loads((tmp_path / "best.json").read_text()) == {"epoch": 3}
    torch.manual_seed(1)
    other, prototypes = small.Net(), small.objective(method)
    load_weights(path, other, prototypes)
    for key, value in net.state_dict().items():
        assert torch.equal(value, other.state_dict()[key])
    assert torch.equal(goal.regularizer.prototypes, prototypes.regularizer.prototypes)
    assert torch.equal(goal.regularizer.active, prototypes.regularizer.active)
    third = small.Net()
    load_weights(str(path), third)
    assert torch.equal(third.head.weight, net.head.weight)


def test_mismatches_are_named(tmp_path: Path, small: ModuleType) -> None:
    path = tmp_path / "best.safetensors"
    save_weights(path, small.Net(), small.objective(), {})
    other = small.Net(width=4)
    before = other.head.weight.clone()
    with pytest.raises(ValueError, match=r"best.safetensors is of another architecture: of another shape: features.0"):
        load_weights(path, other)
    assert torch.equal(other.head.weight, before)
    plain = small.Objective(small.METHODS["pgd"]())
    with pytest.raises(ValueError, match=r"unexpected: regularizer.active, regularizer.pro"):
        load_weights(path, small.Net(), plain)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"best\.safetensors is damaged or was changed"):
        load_weights(path, other)
    path.write_bytes(whole[:-9])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_weights(path, small.Net())
