"""Image files are decoded once: their pixels are kept on disk under a key made of the files' content."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import numpy as np
import PIL
import torch
from PIL import Image, ImageOps
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

__all__ = ["cache_folder", "decode_once", "file_digests"]

_GREY = ("1", "L", "LA")
_COLOUR = ("P", "RGB", "RGBA", "CMYK", "YCbCr")
_CHUNK = 256  # files a thread takes at a time; one file is too little work to hand over

Item = TypeVar("Item")
Result = TypeVar("Result")


def cache_folder() -> Path:
    """Folder of decoded images: ``PROTOAT_CACHE``, else ``~/.cache/protoat``. It may be deleted at any time."""
    return Path(os.environ.get("PROTOAT_CACHE") or "~/.cache/protoat").expanduser() / "images"


def file_digests(paths: Sequence[Path]) -> list[bytes]:
    """SHA-256 of the bytes of each file."""
    return _in_threads(lambda path: sha256(path.read_bytes()).digest(), paths)


def decode_once(paths: Sequence[Path], digests: Sequence[bytes], *, image_size: int | None = None) -> Tensor:
    """Pixels of image files, (N, C, H, W) uint8, in the order of `paths`; C is 1 where every file is grey, else 3.

    The second call with the same content, wherever the files are and whatever their names, reads the cache.

    Args:
        paths: image files that Pillow can read, of 8 bits a channel; transparency is dropped.
        digests: what `file_digests` gave for them.
        image_size: scale and centre-crop every image to this many pixels a side (bilinear); default: all images must
            have one size already.

    Raises:
        ValueError: a file that is no image or is cut short (it is named), images of two sizes (two are named).
    """
    key = sha256(f"{PIL.__version__} {image_size} ".encode() + b"".join(digests)).hexdigest()
    path = cache_folder() / f"{key[:32]}.safetensors"
    images = _recall(path)
    if images is None:
        images = _decode_all(paths, image_size)
        _keep(path, images)
    return images


def _recall(path: Path) -> Tensor | None:
    if not path.is_file():
        return None
    try:
        return load_file(path)["images"]
    except (SafetensorError, OSError, KeyError) as error:
        warnings.warn(f"cached images in {path} cannot be read ({error}); decoding again", stacklevel=4)
        return None


def _keep(path: Path, images: Tensor) -> None:
    """Writes beside the final place and renames, so that no process ever sees half a file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as scratch:
            written = Path(scratch) / path.name
            save_file({"images": images}, written)
            written.replace(path)
    except (SafetensorError, OSError) as error:
        warnings.warn(
            f"decoded images could not be kept in {path.parent} ({error}), so they will be decoded again next time; "
            "set PROTOAT_CACHE to a folder with room",
            stacklevel=4,
        )


def _decode_all(paths: Sequence[Path], image_size: int | None) -> Tensor:
    first, _ = _decode(paths[0], image_size)
    pixels = np.empty((len(paths), *first.shape), dtype=np.uint8)

    def fill(index: int) -> bool:
        image, grey = _decode(paths[index], image_size)
        if image.shape != first.shape:
            size = lambda array: f"{array.shape[2]}x{array.shape[1]}"  # noqa: E731
            raise ValueError(
                f"images of mixed size: {paths[0]} is {size(first)} and {paths[index]} is {size(image)}; "
                "write --data.image_size 32 (library: image_size=32) to bring all to one size"
            )
        pixels[index] = image
        return grey

    grey = all(_in_threads(fill, range(len(paths))))
    return torch.from_numpy(pixels[:, :1].copy() if grey else pixels)


def _decode(path: Path, image_size: int | None) -> tuple[np.ndarray, bool]:
    """(3, H, W) uint8, and whether the file is grey."""
    try:
        with Image.open(path) as image:
            if image.mode not in _GREY + _COLOUR:
                raise ValueError(f"its pixels are of type {image.mode!r}, expected 8 bits a channel")
            colour = image.convert("RGB")
            if image_size is not None:
                colour = ImageOps.fit(colour, (image_size, image_size), Image.Resampling.BILINEAR)
            return np.asarray(colour).transpose(2, 0, 1), image.mode in _GREY
    except Exception as error:  # Pillow's decoders raise many kinds
        raise ValueError(f"{path} cannot be read as an image ({error}); repair or delete it") from error


def _in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    chunks = [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = pool.map(lambda chunk: [function(item) for item in chunk], chunks)
        return [result for part in parts for result in part]
