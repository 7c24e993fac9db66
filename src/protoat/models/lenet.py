"""The paper's network for MNIST."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protoat.models.classifier import ImageClassifier


class LeNet(ImageClassifier):
    """Two convolutions with batch norm, 16 and 32 channels at stride 2, and a layer of 100: the embedding.

    Args:
        num_classes: C.
        in_channels: channels of an image.
        image_size: its height and width, at least 8 pixels.
        mean, std: normalisation for each channel; None leaves pixels as they are, as is usual for MNIST.

    Raises:
        ValueError: see `ImageClassifier`.

    Source: paper, section 4.2: a variant of LeNet having batch normalisation, with two convolutions of stride 2, ReLU
    and two linear layers. The sizes are those of the MNIST network of Wong et al., ICLR 2020, which fits this text; the
    place of batch norm, between convolution and ReLU, is as in Mao et al., NeurIPS 2019. Deviation: the convolutions
    have no bias, which batch norm would take away again.

    >>> import torch
    >>> [tuple(part.shape) for part in LeNet(10)(torch.rand(2, 1, 28, 28))]
    [(2, 10), (2, 100)]
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 1,
        image_size: int = 28,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__(num_classes, in_channels, image_size, embedding_dim=100, mean=mean, std=std)
        self.features = nn.Sequential(
            _OnBlocks(in_channels, 16, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(inplace=True),
            nn.Conv2d(16, 32, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(32 * (image_size // 4) ** 2, 100),
            nn.ReLU(inplace=True),
        )


class _OnBlocks(nn.Conv2d):
    """A 4x4 convolution of stride 2, padding 1, computed as one of 2x2 and stride 1 on blocks of 2x2 pixels.

    The same sums. On a CPU the gradient at an image of few channels, which every attack needs, takes half the time.
    """

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        blocks = F.pixel_unshuffle(F.pad(x, (1, 1 - width % 2, 1, 1 - height % 2)), 2)
        blocks = blocks.contiguous(memory_format=torch.channels_last)
        # (out, in, row, column) to (out, in, block row, row, block column, column)
        weight = self.weight.unflatten(3, (2, 2)).unflatten(2, (2, 2))
        weight = weight.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
        return F.conv2d(blocks, weight, self.bias)
