"""Random views of a batch for contrastive pre-training, drawn on the device, a batch at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from protoat.arguments import check_flag, check_number
from protoat.errors import UserError
from protoat.functional.colour import adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation, greyscale
from protoat.spelling import setting


@dataclass(frozen=True, kw_only=True)
class RandomView:
    """One random view of each image: resized crop, rotation, flip, colour jitter, grey.

    Args:
        crop_scale: range of the crop's share of the image's area; its aspect ratio is in [3/4, 4/3].
        rotation: largest turn, in degrees.
        flip: mirror half of the images.
        jitter: strength s of the colour jitter, 0 for none: brightness, contrast and saturation change by up to 0.8 s,
            hue by up to 0.2 s of the circle; applied to 80 % of the images.
        grey: share of the images that lose their colour.

    Colour changes apply to three-channel images only.

    Source: Chen et al., ICML 2020 (SimCLR), with s = 0.5 as in RoCL and ACL. Deviations: crop and rotation are one
    bilinear resampling; a crop that would leave the image is clipped to it rather than drawn anew; the order of the
    four colour changes is drawn for each batch, not for each image.

    >>> view = RandomView.for_colour()
    >>> view(torch.rand(2, 3, 32, 32), torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3, 32, 32])
    """

    crop_scale: tuple[float, float] = (0.1, 1.0)
    rotation: float = 0.0
    flip: bool = False
    jitter: float = 0.0
    grey: float = 0.0

    def __post_init__(self) -> None:
        low, high = self.crop_scale
        check_number("(0, 1]", crop_scale=low)
        check_number("(0, 1]", crop_scale=high)
        check_number("[0, 180]", rotation=self.rotation)
        check_number("[0, 1]", grey=self.grey)
        check_number("[0, inf)", jitter=self.jitter)
        check_flag(flip=self.flip)
        if not 0 < low <= high <= 1:
            raise UserError(f"{setting(crop_scale=self.crop_scale)} must satisfy 0 < low <= high <= 1")

    @classmethod
    def for_colour(cls) -> RandomView:
        """SimCLR's views for small colour images, as in RoCL and ACL."""
        return cls(crop_scale=(0.1, 1.0), flip=True, jitter=0.5, grey=0.2)

    @classmethod
    def for_digits(cls) -> RandomView:
        """Views that leave a digit the same digit: mild crop, turn of up to 10 degrees, no flip, no colour."""
        return cls(crop_scale=(0.5, 1.0), rotation=10.0)

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """A view of each image of `x` (B, C, H, W) in [0, 1]; new values at each call, all from `generator`."""
        x = self._resample(x, generator)
        if x.shape[1] != 3 or not (self.jitter or self.grey):
            return x
        if self.jitter:
            jittered = self._jitter(x, generator)
            x = torch.where(self._coin(x, 0.8, generator), jittered, x)
        return torch.where(self._coin(x, self.grey, generator), greyscale(x).expand_as(x), x)

    def _resample(self, x: Tensor, generator: torch.Generator) -> Tensor:
        draw = lambda low, high: self._uniform(x, low, high, generator)  # noqa: E731
        area, log_ratio = draw(*self.crop_scale), draw(math.log(3 / 4), math.log(4 / 3))
        width = (area * log_ratio.exp()).sqrt().clamp(max=1)
        height = (area / log_ratio.exp()).sqrt().clamp(max=1)
        centre_x, centre_y = draw(-1, 1) * (1 - width), draw(-1, 1) * (1 - height)
        angle = draw(-self.rotation, self.rotation).deg2rad()
        mirror = torch.where(draw(0, 1) < 0.5, -1.0, 1.0) if self.flip else torch.ones_like(area)
        cosine, sine = angle.cos(), angle.sin()
        first = torch.stack([width * cosine * mirror, -width * sine, centre_x], dim=1)
        second = torch.stack([height * sine * mirror, height * cosine, centre_y], dim=1)
        grid = F.affine_grid(torch.stack([first, second], dim=1), list(x.shape), align_corners=False)
        padding = "zeros" if self.rotation else "reflection"
        return F.grid_sample(x, grid, mode="bilinear", padding_mode=padding, align_corners=False).clamp_(0, 1)

    def _jitter(self, x: Tensor, generator: torch.Generator) -> Tensor:
        spread = 0.8 * self.jitter
        changes = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
        for index in torch.randperm(4, generator=generator, device=x.device).tolist():
            hue = changes[index] is adjust_hue
            low, high = (-0.2 * self.jitter, 0.2 * self.jitter) if hue else (max(0.0, 1 - spread), 1 + spread)
            x = changes[index](x, self._uniform(x, low, high, generator))
        return x

    @staticmethod
    def _uniform(x: Tensor, low: float, high: float, generator: torch.Generator) -> Tensor:
        return torch.empty(len(x), device=x.device, dtype=x.dtype).uniform_(low, high, generator=generator)

    def _coin(self, x: Tensor, share: float, generator: torch.Generator) -> Tensor:
        return (self._uniform(x, 0, 1, generator) < share).view(-1, 1, 1, 1)
