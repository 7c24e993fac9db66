"""scikit-learn's handwritten digits: real images that need no download."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from protoat.data.base import ImageData, Source, Split
from protoat.data.inventory import Inventory, inventory_of_both

_TEST_IMAGES = 500


class Digits(Source):
    """1,797 real handwritten digits of 8x8 grey pixels that come with scikit-learn.

    The last 500 images, in the order of the file, are the test split; nothing is drawn at random.

    Args:
        root: not used, there is nothing to look for.
        download: not used.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI 1998. Deviation: its 17 grey levels are
    spread over 0 to 255.

    >>> Digits().load("test")
    ImageData(500 images of 1x8x8, 10 classes of 46 to 51, 10 modes)
    """

    downloadable = False

    def location(self) -> None:
        return None

    def available(self) -> bool:
        return True

    def inventory(self) -> Inventory | None:
        return inventory_of_both(self)

    def read(self, split: Split) -> ImageData:
        pixels, labels = _digits()
        part = slice(None, -_TEST_IMAGES) if split == "train" else slice(-_TEST_IMAGES, None)
        images = torch.from_numpy(pixels[part] * (255 / 16)).round().to(torch.uint8)
        return ImageData(images.unsqueeze(1), torch.tensor(labels[part], dtype=torch.int64), tuple("0123456789"))


@cache
def _digits() -> tuple[Any, Any]:
    """Arrays of pixels from 0 to 16 (N, 8, 8) and of labels (N,); their text takes a tenth of a second to read."""
    from sklearn.datasets import load_digits  # a second to import, and only this source needs it

    bunch = load_digits()
    return bunch.images, bunch.target
