"""torchvision's ResNet stages for small images, imported lazily."""

from __future__ import annotations

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

BLOCKS: dict[str, type[BasicBlock | Bottleneck]] = {"BasicBlock": BasicBlock, "Bottleneck": Bottleneck}


class Stages(ResNet):
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
