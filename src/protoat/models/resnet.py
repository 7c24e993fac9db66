"""ResNet-18 and ResNet-50 for small images, made of torchvision's stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.resnet import ResNet as TorchvisionResNet

from protoat.models.classifier import ImageClassifier

__all__ = ["ResNet18", "ResNet50"]


class _Features(TorchvisionResNet):
    """torchvision's ResNet with a stem for small images, scaled stages, and no head."""

    def __init__(
        self, block: type[BasicBlock | Bottleneck], blocks: list[int], in_channels: int, image_size: int, width: float
    ) -> None:
        self._channels = {planes: round(planes * width) for planes in (64, 128, 256, 512)}
        self._first_stride = 2 if image_size >= 64 else 1
        super().__init__(block, blocks, num_classes=1)
        stem = self._channels[64]
        self.conv1 = nn.Conv2d(in_channels, stem, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1 = nn.BatchNorm2d(stem)
        self.maxpool = nn.Identity()
        self.fc = nn.Identity()

    def _make_layer(
        self, block: type[BasicBlock | Bottleneck], planes: int, blocks: int, stride: int = 1, dilate: bool = False
    ) -> nn.Sequential:
        if planes == 64:
            self.inplanes, stride = self._channels[64], self._first_stride
        return super()._make_layer(block, self._channels[planes], blocks, stride, dilate)


class _ResNet(ImageClassifier):
    block: ClassVar[type[BasicBlock | Bottleneck]]
    blocks: ClassVar[list[int]]

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        image_size: int = 32,
        *,
        width: float = 1.0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        if round(64 * width) < 1:
            raise ValueError(f"width={width:g} leaves the first stage without channels; 1 gives it 64")
        embedding_dim = round(512 * width) * self.block.expansion
        super().__init__(num_classes, in_channels, image_size, embedding_dim=embedding_dim, mean=mean, std=std)
        self.features = _Features(self.block, self.blocks, in_channels, image_size, width)


class ResNet18(_ResNet):
    """ResNet-18 for small images: a 3x3 stem of stride 1, no max-pool; the embedding is the pooled last stage.

    Args:
        num_classes: C.
        in_channels: channels of an image.
        image_size: its height and width. From 64 pixels on the first stage has stride 2, so that the stages of Tiny
            ImageNet cost what those of CIFAR cost, and the stem alone sees full resolution.
        width: multiplies the channels of every stage, and so D = 512.
        mean, std: normalisation for each channel; None leaves pixels as they are.

    Raises:
        ValueError: a width that leaves no channels; see `ImageClassifier`.

    Source: He et al., CVPR 2016, section 4.2 for the stem; torchvision for the blocks. The paper states no stem and not
    what it does with images of 64 pixels.

    >>> import torch
    >>> [tuple(part.shape) for part in ResNet18(10, width=0.125)(torch.rand(2, 3, 32, 32))]
    [(2, 10), (2, 64)]
    """

    block = BasicBlock
    blocks: ClassVar[list[int]] = [2, 2, 2, 2]


class ResNet50(_ResNet):
    """ResNet-50 for small images: 16 bottleneck blocks, D = 2048; all else as in `ResNet18`.

    Args:
        num_classes: C.
        in_channels: channels of an image.
        image_size: its height and width, see `ResNet18`.
        width: multiplies the channels of every stage, and so D.
        mean, std: normalisation for each channel; None leaves pixels as they are.

    Raises:
        ValueError: see `ResNet18`.

    Source: He et al., CVPR 2016; torchvision's blocks have the stride in the 3x3 convolution ("v1.5").

    >>> ResNet50(200, image_size=64, width=0.125).embedding_dim
    256
    """

    block = Bottleneck
    blocks: ClassVar[list[int]] = [3, 4, 6, 3]
