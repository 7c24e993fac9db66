from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from protoat.models import ResNet18, ResNet50
from protoat.models.classifier import ImageClassifier

PAIRS = [(ResNet18, torchvision.models.resnet18, 512), (ResNet50, torchvision.models.resnet50, 2048)]
STEM_AND_HEAD = {"conv1.weight", "fc.weight", "fc.bias"}


@pytest.mark.parametrize(("ours", "theirs", "size"), PAIRS)
def test_all_but_stem_and_head_is_torchvisions(ours: type, theirs: type, size: int) -> None:
    with torch.device("meta"):
        model, reference = ours(1000), theirs()
    shapes = {key: value.shape for key, value in model.features.state_dict().items()}
    expected = {key: value.shape for key, value in reference.state_dict().items()}
    assert shapes.pop("conv1.weight") == (64, 3, 3, 3)
    assert shapes == {key: shape for key, shape in expected.items() if key not in STEM_AND_HEAD}
    assert model.embedding_dim == size
    assert model.head.weight.shape == (1000, size)
    stem = 64 * 3 * (7 * 7 - 3 * 3)
    count = sum(p.numel() for p in model.parameters())
    assert count == sum(p.numel() for p in reference.parameters()) - stem


def test_resnet50_is_made_of_bottlenecks_and_resnet18_is_not() -> None:
    blocks = {make: [type(m).__name__ for m in make(2, width=0.0625).modules()] for make in (ResNet18, ResNet50)}
    assert blocks[ResNet50].count("Bottleneck") == 16
    assert "BasicBlock" not in blocks[ResNet50]
    assert blocks[ResNet18].count("BasicBlock") == 8
    assert "Bottleneck" not in blocks[ResNet18]


@pytest.mark.parametrize(("make", "per_class"), [(ResNet18, 512), (ResNet50, 2048)])
@pytest.mark.parametrize("width", [0.25, 0.5, 2.0])
def test_width_scales_every_stage(make: type[ImageClassifier], per_class: int, width: float) -> None:
    with torch.device("meta"):
        full, scaled = make(7), make(7, width=width)
    assert scaled.embedding_dim == per_class * width
    for (name, one), (_, other) in zip(full.named_parameters(), scaled.named_parameters(), strict=True):
        ends = {"features.conv1.weight": (1, 3), "head.weight": (1, 0), "head.bias": (1, 1)}
        if name in ends:
            continue
        factor = [width] * min(one.dim(), 2) + [1.0] * max(0, one.dim() - 2)
        assert list(other.shape) == [f * n for f, n in zip(factor, one.shape, strict=True)], name


@pytest.mark.parametrize(("size", "maps"), [(32, [32, 16, 8, 4]), (64, [32, 16, 8, 4]), (28, [28, 14, 7, 4])])
@pytest.mark.parametrize("make", [ResNet18, ResNet50])
def test_size_of_the_maps(make: type[ImageClassifier], size: int, maps: list[int]) -> None:
    model = make(3, 3, size, width=0.0625).eval()
    sizes = []
    for stage in (model.features.layer1, model.features.layer2, model.features.layer3, model.features.layer4):
        stage.register_forward_hook(lambda module, x, y: sizes.append(y.shape[2]))
    model(torch.rand(1, 3, size, size))
    assert sizes == maps


def test_stages_keep_channels_last() -> None:
    model = ResNet18(3, width=0.25).to(memory_format=torch.channels_last)
    kept = []
    for part in model.modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_hook(
                lambda module, x, y: kept.append(y.is_contiguous(memory_format=torch.channels_last))
            )
    model(torch.rand(2, 3, 32, 32).to(memory_format=torch.channels_last))
    assert all(kept)


def test_a_width_without_channels_is_told() -> None:
    with pytest.raises(ValueError, match=r"width=0.005 leaves the first stage without channels"):
        ResNet18(10, width=0.005)
