"""A disk cache of decoded images, keyed by the content of their files."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import TypeVar
from zlib import crc32

import numpy as np
import PIL
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from protoat.data.picture import LONGEST, RULES, colour_of, read_picture
from protoat.errors import UserError
from protoat.spelling import setting
from protoat.storage.files import open_to_read
from protoat.storage.scratch import scratch

USUAL_SIDE = 32  # pixels, to which pictures of mixed size are brought where nothing says another
_CHUNK = 256  # files a thread takes at a time; one file is too little work to hand over
_PART = 2**20

Item = TypeVar("Item")
Result = TypeVar("Result")


class MixedSizesError(UserError):
    """Pictures of several sizes, where nothing says to which they are brought.

    Attributes:
        found: two of them, with their sizes.
    """

    def __init__(self, found: str) -> None:
        super().__init__(
            f"images of mixed size: {found}; write {setting(image_size=USUAL_SIDE)} to bring all to one size"
        )
        self.found = found


def cache_folder() -> Path:
    """Folder of decoded images: ``PROTOAT_CACHE``, else ``~/.cache/protoat``. It may be deleted at any time."""
    return Path(os.environ.get("PROTOAT_CACHE") or "~/.cache/protoat").expanduser() / "images"


def file_digests(paths: Sequence[Path]) -> list[bytes]:
    """SHA-256 of the bytes of each file.

    Raises:
        ValueError: a file that cannot be read, or is longer than a picture can be (512 MiB); it is named.
    """
    return _in_threads(_digest, paths)


def _digest(path: Path) -> bytes:
    total = sha256()
    with open_to_read(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > LONGEST:
            raise UserError(f"{path} has {size} bytes, too many for a picture; delete it or move it away")
        while part := file.read(_PART):
            total.update(part)
    return total.digest()


def decode_once(
    pictures: Sequence[Path | bytes],
    digests: Sequence[bytes],
    *,
    names: Sequence[str] | None = None,
    image_size: int | None = None,
    background: str | None = None,
) -> Tensor:
    """Pixels of image files, (N, C, H, W) uint8, in their order; C is 1 where every file is grey, else 3.

    The second call with the same content, wherever the files are and whatever their names, reads the cache.

    Args:
        pictures: paths, or the bytes of files; how one becomes pixels is said in `protoat.data.picture.read_picture`.
        digests: SHA-256 of the bytes of each, as of `file_digests`.
        names: of pictures, for messages; default: their paths.
        image_size: scale and centre-crop every image to this many pixels a side (bilinear); default: all images must
            have one size already.
        background: colour under transparent pixels; default: white.

    Raises:
        ValueError: a file that is no image or is cut short (it is named), images of two sizes (two are named), or more
            of them than memory holds.
    """
    background = background or "white"
    rules = f"rules {RULES} {PIL.__version__} {image_size} {colour_of(background)} "
    key = sha256(rules.encode() + b"".join(digests)).hexdigest()
    path = cache_folder() / f"{key[:32]}.safetensors"
    images = _recall(path)
    if images is None:
        images = _decode_all(pictures, names or list(map(str, pictures)), image_size, background)
        _keep(path, images)
    return images


def _recall(path: Path) -> Tensor | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            images, expected = file.get_tensor("images"), (file.metadata() or {}).get("crc32")
        if _checksum(images) != expected:
            raise UserError("its checksum is another")
        return images
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        warnings.warn(f"cached images in {path} cannot be read ({error}); decoding again", stacklevel=4)
        return None


def _keep(path: Path, images: Tensor) -> None:
    try:
        with scratch(path) as part:
            save_file({"images": images}, part, metadata={"crc32": _checksum(images)})
            part.replace(path)
    except (SafetensorError, OSError, UserError) as error:
        warnings.warn(
            f"decoded images could not be kept in {path.parent} ({error}), so they will be decoded again next time; "
            "set PROTOAT_CACHE to a folder with room",
            stacklevel=4,
        )


def _checksum(images: Tensor) -> str:
    return str(crc32(images.numpy().data))


def _decode_all(
    pictures: Sequence[Path | bytes], names: Sequence[str], image_size: int | None, background: str
) -> Tensor:
    size = None if image_size is None else (image_size, image_size)

    def decoded(index: int) -> tuple[Image.Image, bool]:
        return read_picture(pictures[index], names[index], background, size, advice="; repair or delete it")

    first, _ = decoded(0)
    try:
        pixels = np.empty((len(pictures), 3, first.height, first.width), dtype=np.uint8)
    except MemoryError:
        raise UserError(
            f"{len(pictures)} images as large as {names[0]} ({first.width}x{first.height}) do not fit into memory; "
            f"write {setting(image_size=224)} or less"
        ) from None

    def fill(index: int) -> bool:
        image, grey = decoded(index)
        if image.size != first.size:
            sizes = ["{}x{}".format(*each.size) for each in (first, image)]
            raise MixedSizesError(f"{names[0]} is {sizes[0]} and {names[index]} is {sizes[1]}")
        pixels[index] = np.asarray(image).transpose(2, 0, 1)
        return grey

    grey = all(_in_threads(fill, range(len(pictures))))
    return torch.from_numpy(pixels[:, :1].copy() if grey else pixels)


def _in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    chunks = [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = pool.map(lambda chunk: [function(item) for item in chunk], chunks)
        return [result for part in parts for result in part]
