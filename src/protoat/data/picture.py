"""Reads one picture as a viewer shows it: upright, opaque, 8-bit sRGB."""

from __future__ import annotations

import io
import os
import struct
import threading
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image, ImageChops, ImageColor, ImageOps

from protoat.data.colour import to_srgb
from protoat.errors import UserError, in_a_line
from protoat.spelling import setting

PictureLike: TypeAlias = Path | bytes | Image.Image

RULES = 2  # to be raised whenever the same file gives other pixels than before, so that cached ones are not used

# Formats of pixels that Pillow decodes by itself. Not among them: those that it hands to other programs (EPS to
# Ghostscript), that draw (WMF), or that hold layers or measurements in place of one picture (PSD, FITS).
_BY_CONTENT = {
    "AVIF": (".avif", ".avifs"),
    "BMP": (".bmp",),
    "DDS": (".dds",),
    "DIB": (".dib",),
    "GIF": (".gif",),
    "ICO": (".ico",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "JPEG2000": (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
    "MPO": (".mpo",),
    "PNG": (".png", ".apng"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "QOI": (".qoi",),
    "SGI": (".sgi",),
    "SUN": (".ras",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
_BY_SUFFIX = {"PCX": (".pcx",), "TGA": (".tga", ".icb", ".vda", ".vst")}  # too little in front to know them by
SUFFIXES = frozenset(chain.from_iterable((_BY_CONTENT | _BY_SUFFIX).values()))

LONGEST = 2**29  # bytes of a file that may be a picture
_LARGE = 2**24  # pixels; pictures of more are decoded one at a time, so that threads together do not fill the memory
_one_large = threading.Lock()
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_HEAD = 4096  # bytes of a file in which its colours are looked for
_DEEP_GREY = ("I;16", "I;16B", "I;16L", "I;16N")


def colour_of(text: str) -> tuple[int, int, int]:
    """Red, green and blue of a colour as in HTML.

    >>> colour_of("white"), colour_of("#102030")
    ((255, 255, 255), (16, 32, 48))

    Raises:
        ValueError: no colour, or a transparent one.
    """
    try:
        red, green, blue, *alpha = ImageColor.getrgb(text)
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{setting(background=text)} is no colour; write white, black or #rrggbb") from error
    if alpha:
        raise UserError(f"{setting(background=text)} is transparent; write white, black or #rrggbb")
    return red, green, blue


def read_picture(
    picture: PictureLike, name: str, background: str, size: tuple[int, int] | None = None, *, advice: str = ""
) -> tuple[Image.Image, bool]:
    """The picture in mode RGB, and whether it is grey.

    Transparent pixels are laid over `background`; of 16 bits a channel the upper eight are kept; a palette, an
    embedded profile, PNG's gamma and the camera's orientation are applied.

    Args:
        picture: a file, its bytes, or a picture in memory, which is left as it is; of the last, what only the header
            of a PNG or AVIF file says is not known.
        name: for the message.
        background: a colour as in HTML.
        size: (height, width) to which it is scaled (bilinear, with antialiasing) and centre-cropped; default: as it is.
        advice: ends the message.

    Raises:
        ValueError: it is damaged, in none of the formats above, has more pixels than Pillow's limit, several frames or
            pages, or pixels that have no such form: floats, 32-bit integers, Lab.
    """
    colour = colour_of(background)
    try:
        if isinstance(picture, Image.Image):
            _check_single(picture)
            shown, grey = _shown(picture, b"", colour, ours=False)
        else:
            with _opened(picture) as image:
                pixels, most = image.width * image.height, Image.MAX_IMAGE_PIXELS
                if most is not None and pixels > most:
                    raise UserError(f"it has {pixels} pixels, and Pillow's limit is {most}")
                _check_single(image)
                with _one_large if pixels > _LARGE else nullcontext():
                    shown, grey = _shown(image, _head(picture), colour, ours=True)
        return (shown if size is None else ImageOps.fit(shown, size[::-1], Image.Resampling.BILINEAR)), grey
    except Exception as error:  # Pillow's decoders raise many kinds
        raise UserError(f"{name} cannot be read as an image ({in_a_line(error)}){advice}") from error


def _opened(file: Path | bytes) -> Image.Image:
    """With its size and kind known and its pixels not yet decoded."""
    if not (len(file) if isinstance(file, bytes) else file.stat().st_size):
        raise UserError("it is empty")
    Image.init()
    suffix = "" if isinstance(file, bytes) else file.suffix.lower()
    weak = [name for name, suffixes in _BY_SUFFIX.items() if suffix in suffixes]
    formats = [name for name in [*_BY_CONTENT, *weak] if name in Image.OPEN]
    return Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=formats)


def _check_single(image: Image.Image) -> None:
    if image.format not in ("MPO", "ICO") and getattr(image, "is_animated", False):
        raise UserError("it is animated or has several pages; keep the one that counts")


def _head(file: Path | bytes) -> bytes:
    if isinstance(file, bytes):
        return file[:_HEAD]
    with file.open("rb") as opened:
        return opened.read(_HEAD)


def _shown(
    image: Image.Image, head: bytes, background: tuple[int, int, int], *, ours: bool
) -> tuple[Image.Image, bool]:
    image.load()
    colours, alpha = _colours_and_alpha(image, head)
    info, mode, turn = image.info, image.mode, _turn(image)
    if ours and colours is not image:
        image.close()  # frees its pixels
    colours = to_srgb(colours, info, head)
    grey = colours.mode == "L" or mode in ("1", "L", "LA", "La", *_DEEP_GREY) or _png(head)[1] in (0, 4)
    shown = colours.convert("RGB")
    if alpha is not None and alpha.getextrema() != (255, 255):
        shown.paste(background, mask=ImageChops.invert(alpha))
        grey = grey and len(set(background)) == 1
    return shown if turn is None else shown.transpose(turn), grey


def _colours_and_alpha(image: Image.Image, head: bytes) -> tuple[Image.Image, Image.Image | None]:
    """8-bit colours in mode L, RGB or CMYK, and their opacity in mode L, None where all is opaque."""
    mode, key = image.mode, image.info.get("transparency")
    if mode in _DEEP_GREY or (mode == "I" and image.format in ("PNG", "PPM")):
        levels = np.asarray(image)
        opaque = None if key is None else Image.fromarray(np.where(levels == key, 0, 255).astype(np.uint8))
        return Image.fromarray(_upper_eight(levels, image)), opaque
    if mode in ("P", "PA") and (key is not None or mode == "PA" or image.palette.mode == "RGBA"):  # type: ignore[union-attr]
        image = image.convert("RGBA")
    elif mode in ("La", "RGBa"):
        image = image.convert(mode.upper())
    elif mode == "1":
        image = image.convert("L")
    elif mode in ("P", "RGBX", "YCbCr"):
        image = image.convert("RGB")
    if image.mode in ("LA", "RGBA"):
        return image.convert(image.mode[:-1]), image.getchannel("A")
    if image.mode not in ("L", "RGB", "CMYK"):
        raise UserError(f"its pixels are of type {mode!r}, expected 8 or 16 bits a channel")
    return image, None if key is None else _opaque_but(image, key, head)


def _upper_eight(levels: Any, image: Image.Image) -> Any:
    bits, inverted = 16, False
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        bits, inverted = tags.get(258, (16,))[0], tags.get(262) == 0  # bits per sample; 0 is white
    eight = (levels >> (bits - 8)).astype(np.uint8)
    return 255 - eight if inverted else eight


def _opaque_but(image: Image.Image, key: Any, head: bytes) -> Image.Image:
    """The opacity of a picture one colour of which is transparent."""
    depth, _ = _png(head)
    if depth == 16:
        raise UserError("one of its 16-bit colours is transparent, which 8 bits cannot tell from its neighbours")
    keys = [key] if isinstance(key, int) else list(key)
    if depth in (2, 4) and image.mode == "L":
        keys = [keys[0] * 255 // (2**depth - 1)]  # Pillow spreads the pixels over 0 to 255 and leaves the key
    differs = Image.new("L", image.size)
    for band, level in zip(image.split(), keys, strict=True):
        differs = ImageChops.lighter(differs, band.point([255 * (other != level) for other in range(256)]))
    return differs


def _png(head: bytes) -> tuple[int, int]:
    """Bits a sample and colour type of a PNG; (0, -1) of other files."""
    return struct.unpack_from("BB", head, 24) if head.startswith(b"\x89PNG") and len(head) >= 26 else (0, -1)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """How to set it upright, as the file says; nothing where that cannot be read, as viewers do."""
    try:
        return _TURNS.get(image.getexif().get(274, 1))
    except Exception:  # whatever a damaged block of a camera makes Pillow raise
        return None


def is_picture(name: str) -> bool:
    """Whether a file's name says that it is a picture of one of the formats above.

    >>> is_picture("a.PNG"), is_picture("notes.txt")
    (True, False)
    """
    return os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122 - of names, of which there may be millions
