"""Small images, models and stores that the tests of evaluation share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from protoat.data import ImageData
from protoat.types import Output

from ..contracts.parts import Net, trained

NAMES = ("left", "right")
MODES = ("left/dark", "left/light", "right/dark", "right/light", "right/none")


class Halves(nn.Module):
    """Class 1 where the right half is brighter; batch norm and dropout to trip over."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Output:
        x = self.drop(self.norm(x))
        sums = torch.stack([x[..., :2].sum((1, 2, 3)), x[..., 2:].sum((1, 2, 3))], dim=1)
        return Output(sums, sums)


def halves() -> ImageData:
    """Sixty images, sorted by mode as a folder gives them; a third are hard, four wrong, none is of the last mode."""
    modes = torch.arange(4).repeat_interleave(15)
    labels = modes // 2
    images = torch.full((60, 1, 4, 4), 100, dtype=torch.uint8)
    for i, label in enumerate(labels.tolist()):
        bright = 98 if i % 15 == 7 else 101 if i % 3 == 0 else 140
        images[i, :, :, 2 * label : 2 * label + 2] = bright + (0 if bright == 98 else 30 * (i % 2))
    return ImageData(images, labels, NAMES, modes, MODES)


def digits(classes: int, count: int = 64) -> tuple[Net, ImageData]:
    """A network that knows its digits, and digits it was not trained on."""
    model, x, y = trained(classes, count)
    return model, ImageData((255 * x).round().to(torch.uint8), y, tuple(map(str, range(classes))))


class Kept(dict):
    """Outcomes of batches in memory, as `protoat.evaluation.measurement.Saved` asks."""

    def put(self, key: str, outcomes: str, seconds: float, alarms: Sequence[str]) -> None:
        self[key] = outcomes, seconds, alarms


class Killed(Exception):  # noqa: N818 - it is no error
    pass


class Fuse(Kept):
    """Keeps so many outcomes, and raises `Killed` with the last of them."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def put(self, *given: Any) -> None:
        super().put(*given)
        if len(self) == self.after:
            raise Killed
