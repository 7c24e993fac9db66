"""Folding batch norm changes the cost of a model and nothing else."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from protoat.evaluation.folding import FoldedBatchNorm
from protoat.models import LeNet, ResNet18, with_embedding
from protoat.types import as_output


def used(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """In eval mode, with statistics and affine weights that are not the initial ones."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    model.train()(torch.rand(shape, dtype=next(model.parameters()).dtype) + 0.5)
    return model.eval()


def backbone() -> nn.Module:
    """A network of the user's, whose embedding is read by a hook on a layer that could have been folded."""
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5)]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 2))
    return with_embedding(network, layer="4", example=torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("build", "shape", "count"),
    [
        (lambda: LeNet(10), (4, 1, 28, 28), 2),
        (lambda: ResNet18(10, width=0.125), (4, 3, 32, 32), 20),
        (backbone, (4, 3, 8, 8), 1),
        (
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(9, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2)),
            (4, 1, 3, 3),
            1,
        ),
    ],
)
def test_outputs_and_gradients_are_those_of_the_model(build, shape, count) -> None:
    # In float64, where no rounding moves an activation over the kink of a ReLU.
    model, x = used(build().double(), shape), torch.rand(shape, dtype=torch.float64)
    before = [id(module) for module in model.modules()]

    def measured() -> list[Tensor]:
        leaf = x.clone().requires_grad_()
        output = as_output(model(leaf))
        (gradient,) = torch.autograd.grad(output.logits.logsumexp(1).sum(), leaf)
        return [*output, gradient]

    own = measured()
    folded = FoldedBatchNorm(model, x[:2])
    assert folded.count == count
    with folded.in_place():
        left = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        assert len(left) == (build is backbone)
        for ours, theirs in zip(measured(), own, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert [id(module) for module in model.modules()] == before
    assert all(torch.equal(a, b) for a, b in zip(measured(), own, strict=True))


class Shared(nn.Module):
    """One convolution before two batch norms, and its output used besides: nothing may be folded into it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv, self.first, self.second = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.kind == "read":
            return F.relu(self.first(y) * self.first.weight.view(-1, 1, 1)).mean((2, 3))
        if self.kind == "twice":
            return (self.first(y) + self.second(self.conv(x))).mean((2, 3))
        if self.kind == "besides":
            return (self.first(y) + y).mean((2, 3))
        if self.kind == "noise":
            return (self.first(y) + torch.randn_like(y)).mean((2, 3))
        return F.batch_norm(y, None, None, training=True).mean((2, 3))


@pytest.mark.parametrize("kind", ["read", "twice", "besides", "noise", "functional"])
def test_what_cannot_be_folded_is_left_alone(kind: str) -> None:
    model = used(Shared(kind), (4, 1, 5, 5))
    folded = FoldedBatchNorm(model, torch.rand(2, 1, 5, 5))
    assert folded.count == 0
    with folded.in_place():
        assert type(model.first) is nn.BatchNorm2d


class Doubled(nn.Module):
    """A parametrisation without a way back from the weight."""

    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


@pytest.mark.parametrize(
    "reparametrise",
    [
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        parametrizations.orthogonal,
        nn.utils.spectral_norm,
        lambda conv: parametrize.register_parametrization(conv, "weight", Doubled()),
    ],
    ids=["weight_norm", "spectral_norm", "orthogonal", "spectral_norm by a hook", "no way back"],
)
def test_a_reparametrised_layer_is_left_alone_and_the_others_folded(reparametrise) -> None:
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), nn.Flatten()]
    reparametrise(layers[0])
    model = used(nn.Sequential(*layers), (4, 1, 6, 6))
    x = torch.rand(3, 1, 6, 6)
    own = model(x)
    folded = FoldedBatchNorm(model, x)
    assert folded.count == 1
    with folded.in_place():
        assert type(model[1]) is nn.BatchNorm2d and type(model[3]) is nn.Identity
        torch.testing.assert_close(model(x), own)


class Viewed(nn.Module):
    """A network whose head refuses maps with their channels last, as `view` does."""

    def __init__(self, channels: int = 4, *, view: bool = True) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, channels, 1, stride=1 if view else 2), nn.BatchNorm2d(channels)
        self.head, self.view = nn.Linear(channels * (36 if view else 9), 2), view
        self.layouts: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        maps = self.norm(self.conv(x))
        self.layouts.append(maps.is_contiguous())
        return self.head(maps.view(len(x), -1) if self.view else maps.flatten(1))


@pytest.mark.parametrize("view", [True, False], ids=["view", "narrow layer that could crash"])
def test_channels_stay_first_where_the_model_needs_it(view: bool) -> None:
    model, x = used(Viewed(view=view), (4, 3, 6, 6)), torch.rand(2, 3, 6, 6)
    folded = FoldedBatchNorm(model, x)
    assert folded.count == 1
    with folded.in_place():
        model(x)
    assert model.layouts[-1]


def test_maps_of_folded_layers_have_their_channels_last() -> None:
    model, x = used(ResNet18(10, width=0.25), (4, 3, 32, 32)), torch.rand(2, 3, 32, 32)
    seen = []
    model.features.layer4.register_forward_hook(
        lambda *given: seen.append(given[2].is_contiguous(memory_format=torch.channels_last))
    )
    with FoldedBatchNorm(model, x).in_place():
        model(x)
    assert seen[-1]
    model(x)
    assert not seen[-1]


def test_what_torch_cannot_fuse_is_measured_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise TypeError("some layer of a later torch")

    monkeypatch.setattr("protoat.evaluation.folding.fuse_conv_bn_eval", refuse)
    assert FoldedBatchNorm(used(LeNet(10), (4, 1, 28, 28)), torch.rand(1, 1, 28, 28)).count == 0


def test_layers_come_back_when_the_attack_fails() -> None:
    model = used(LeNet(10), (4, 1, 28, 28))
    with pytest.raises(RuntimeError, match="mine"), FoldedBatchNorm(model, torch.rand(1, 1, 28, 28)).in_place():
        raise RuntimeError("mine")
    assert isinstance(model.features[1], nn.BatchNorm2d)
