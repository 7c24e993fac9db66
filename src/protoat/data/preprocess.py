"""Converts pictures of any kind to the input of a network, as in training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from protoat.data.picture import LONGEST, colour_of, read_picture
from protoat.errors import MissingFileError, UserError
from protoat.functional.images import check_images, unit_pixels


@dataclass(frozen=True)
class Preprocess:
    """Turns pictures into images of one shape, with the rules by which `ImageFolder` reads its files.

    A file, its bytes, a PIL picture and a NumPy array of 8 bits (H, W), (H, W, 3) or (H, W, 4) are pictures: set
    upright, laid over the background where transparent, converted to sRGB, scaled and centre-cropped to the shape, and
    made grey where the network takes one channel. Tensors, and NumPy arrays of floats or of shape (N, C, H, W), are
    taken as they are and must have the shape: (C, H, W) or (N, C, H, W), 8 bits or floats in [0, 1].

    Args:
        shape: (C, H, W) of an image.
        background: colour under transparent pixels.

    Raises:
        ValueError: on use: a picture that cannot be read, or a tensor of another shape, type or range.

    >>> grey = Preprocess((1, 8, 8))
    >>> grey([Image.new("RGB", (20, 10), "white"), torch.zeros(1, 8, 8)]).shape
    torch.Size([2, 1, 8, 8])
    """

    shape: tuple[int, int, int]
    background: str = "white"

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        colour_of(self.background)

    def __call__(self, images: Any) -> Tensor:
        """(N, C, H, W) floats in [0, 1] of one image, several in a list, or a batch."""
        if isinstance(images, Tensor | np.ndarray | bytes | str | Path | Image.Image):
            return self._one(images)
        if isinstance(images, Mapping) or not isinstance(images, Iterable):
            raise UserError(f"images are a {type(images).__name__}; expected paths, pictures, arrays or tensors")
        with ThreadPoolExecutor() as pool:
            found = list(pool.map(self._one, images))
        return torch.cat(found) if found else torch.zeros(0, *self.shape)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "shape": list(self.shape)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Preprocess:
        """What `to_json` gave."""
        return cls(tuple(content["shape"]), str(content["background"]))

    def _one(self, image: Any) -> Tensor:
        """(N, C, H, W); N is 1 but of a batch."""
        if isinstance(image, Tensor | np.ndarray) and not _is_picture(image):
            return self._of_tensor(torch.as_tensor(image))
        if isinstance(image, np.ndarray):
            return self._of_picture(Image.fromarray(np.ascontiguousarray(image)), "an array")
        if isinstance(image, Image.Image | bytes):
            return self._of_picture(image, "a picture")
        if isinstance(image, str | Path):
            path = Path(image)
            if not path.is_file():
                raise MissingFileError(f"there is no file {path}")
            if path.stat().st_size > LONGEST:
                raise UserError(f"{path} has {path.stat().st_size} bytes, too many for a picture")
            return self._of_picture(path, str(path))
        raise UserError(f"an image is a {type(image).__name__}; expected a path, picture, array or tensor")

    def _of_tensor(self, image: Tensor) -> Tensor:
        batch = image[None] if image.dim() == 3 else image
        if batch.dim() != 4 or tuple(batch.shape[1:]) != self.shape:
            expected = ", ".join(map(str, self.shape))
            raise UserError(
                f"images have shape {tuple(image.shape)}, expected ({expected}) or (N, {expected}); pictures in files, "
                "PIL pictures and 8-bit arrays (H, W, 3) may have any size"
            )
        return check_images(batch.float() if batch.is_floating_point() else unit_pixels(batch))

    def _of_picture(self, picture: Path | bytes | Image.Image, name: str) -> Tensor:
        channels, height, width = self.shape
        if channels not in (1, 3):
            raise UserError(f"the network takes {channels} channels, and pictures have 1 or 3; give tensors")
        shown, _ = read_picture(picture, name, self.background, (height, width))
        pixels = np.array(shown.convert("L") if channels == 1 else shown)
        return unit_pixels(torch.from_numpy(pixels.reshape(height, width, channels)).permute(2, 0, 1)[None])


def _is_picture(image: Tensor | np.ndarray) -> bool:
    """Whether it is an array as Pillow makes them, channels last."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        return False
    return image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4) and image.shape[0] not in (1, 3))
