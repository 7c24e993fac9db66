"""ResNet-18 and ResNet-50 for small images, made of torchvision's stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from protoat.errors import UserError
from protoat.models.classifier import ImageClassifier
from protoat.spelling import setting


class _ResNet(ImageClassifier):
    block: ClassVar[str]
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
            raise UserError(f"{setting(width=width)} leaves the first stage without channels; 1 gives it 64")
        from protoat.models.stages import BLOCKS, Stages  # takes seconds

        block = BLOCKS[self.block]
        embedding_dim = round(512 * width) * block.expansion
        super().__init__(num_classes, in_channels, image_size, embedding_dim=embedding_dim, mean=mean, std=std)
        self.features = Stages(block, self.blocks, in_channels, image_size, width)


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

    block = "BasicBlock"
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

    block = "Bottleneck"
    blocks: ClassVar[list[int]] = [3, 4, 6, 3]
