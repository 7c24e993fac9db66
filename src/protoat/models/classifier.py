"""The base class of the package's networks: normalise, features, linear head."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from protoat.arguments import check_whole
from protoat.errors import UserError
from protoat.models.normalize import normalization
from protoat.types import Output


class ImageClassifier(nn.Module):
    """Images in [0, 1] to features, the embedding, and from there by a linear head to logits.

    A subclass sets `features`: normalised images (B, in_channels, image_size, image_size) -> (B, embedding_dim).

    Args:
        num_classes: C.
        in_channels: channels of an image.
        image_size: its height and width, at least 8 pixels.
        embedding_dim: D.
        mean, std: normalisation for each channel; None leaves pixels as they are.

    Raises:
        ValueError: a size out of range, or `mean` and `std` that do not fit; in use, images of another shape or type.

    >>> import torch
    >>> model = ImageClassifier(10, 1, 8, embedding_dim=64)
    >>> model.features = nn.Flatten()
    >>> [tuple(part.shape) for part in model(torch.rand(2, 1, 8, 8))]
    [(2, 10), (2, 64)]
    """

    features: nn.Module

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: int,
        *,
        embedding_dim: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        check_whole(0, num_classes=num_classes, in_channels=in_channels, image_size=image_size)
        if min(num_classes, in_channels) < 1 or image_size < 8:
            raise UserError(
                f"num_classes={num_classes}, in_channels={in_channels}, image_size={image_size}; "
                "expected at least 1, 1 and 8"
            )
        for name, values in (("mean", mean), ("std", std)):
            if values is not None and len(values) != in_channels:
                raise UserError(
                    f"{name} has {len(values)} numbers, expected one for each of {in_channels} channels; give as "
                    "many, or none of either to leave pixels as they are (--model.mean none --model.std none)"
                )
        self.image_shape = (in_channels, image_size, image_size)
        self.embedding_dim = embedding_dim
        self.normalize = normalization(mean, std)
        self.head = nn.Linear(embedding_dim, num_classes)

    def forward(self, x: Tensor) -> Output:
        if x.shape[1:] != self.image_shape or not x.is_floating_point():
            raise UserError(
                f"images have shape {tuple(x.shape)} and type {x.dtype}, expected (B, "
                f"{', '.join(map(str, self.image_shape))}) in floating point, with pixels in [0, 1]"
            )
        embedding = self.features(self.normalize(x))
        return Output(self.head(embedding), embedding)
