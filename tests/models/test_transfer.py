"""Weights from elsewhere: prefixes, shapes, and values that cannot be meant."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from protoat.models import LeNet, with_embedding
from protoat.models.transfer import transfer


def filled(model: nn.Module, value: float) -> nn.Module:
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(value)
    return model


@pytest.mark.parametrize("prefix", ["", "module.", "model.encoder."])
def test_prefixes_of_both_sides_are_taken_away(prefix: str) -> None:
    source = filled(LeNet(10), 3.0)
    tensors = {prefix + name: value for name, value in source.state_dict().items()}
    for target in (LeNet(10), with_embedding(LeNet(10), "features")):
        report = transfer(tensors, target)
        assert (report.loaded, report.missing, report.unexpected) == (16, [], [])
        assert all(bool((value == 3).all()) for value in target.state_dict().values())


def test_what_is_left_out_stays_and_is_not_missed() -> None:
    target = filled(LeNet(10), 1.0)
    tensors = filled(LeNet(10), 2.0).state_dict()
    report = transfer(tensors, target, leave=["head.weight", "head.bias"])
    assert target.head.weight.eq(1).all()
    assert target.features[0].weight.eq(2).all()
    assert (report.missing, report.unexpected) == ([], ["head.weight", "head.bias"])


def test_another_shape_stays_as_it_was() -> None:
    target = filled(LeNet(2), 1.0)
    report = transfer(filled(LeNet(10), 2.0).state_dict(), target)
    assert report.of_another_shape == ["head.weight (10, 100) for (2, 100)", "head.bias (10,) for (2,)"]
    assert target.head.weight.eq(1).all()
    assert "of another shape: head.weight (10, 100) for (2, 100), head.bias" in str(report)


def test_no_tensor_serves_twice() -> None:
    report = transfer({"0.weight": torch.ones(2, 2)}, nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    assert (report.loaded, report.missing) == (1, ["0.bias", "1.weight", "1.bias"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_spoilt_weights_are_refused_and_nothing_is_loaded(value: float) -> None:
    tensors = {name: tensor.clone() for name, tensor in filled(LeNet(10), 2.0).state_dict().items()}
    tensors["features.7.weight"][3, 4] = value
    target = filled(LeNet(10), 1.0)
    with pytest.raises(ValueError, match=r"features\.7\.weight holds values that are no finite numbers"):
        transfer(tensors, target)
    assert target.features[0].weight.eq(1).all()


def test_nothing_that_fits_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"no tensor fits: the file has a, b, c, d, \.\.\., the model"):
        transfer({name: torch.zeros(1) for name in "abcde"}, LeNet(10))
