"""Colour management of image files: ICC profiles, gamma, code points."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from protoat.errors import UserError

_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}
# Of lcms: safe in several threads; and exact at each level rather than fast, as grey curves are else interpolated.
_FLAGS = {"RGB": 0x0040, "CMYK": 0x0040, "L": 0x0040 | 0x0100}
_DISPLAY_GAMMA = 2.2
_AS_GOOD_AS_ONE = 0.05  # libpng's threshold for an exponent that changes nothing
_SRGB = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)  # white, red, green, blue
# Code points of ITU-T H.273 that a screen shows as sRGB: BT.709, unspecified, BT.601; sRGB and curves like it.
_PRIMARIES, _TRANSFERS = (1, 2, 5, 6, 7), (1, 2, 6, 13, 14, 15)


def to_srgb(colours: Image.Image, info: Mapping[Any, Any], head: bytes) -> Image.Image:
    """Colours of a file (mode L, RGB or CMYK) as sRGB in mode L or RGB, by what the file says of them.

    An embedded profile counts first, then PNG's gamma. A profile that is damaged or of other channels is left out, as
    viewers do. CMYK without a profile is ``(1 - ink) * (1 - black)``.

    Args:
        colours: without transparency.
        info: what Pillow found beside the pixels.
        head: the first bytes of the file, in which code points are looked for.

    Raises:
        ValueError: colours that 8 bits of sRGB cannot hold (HDR, wide gamut), or PNG chromaticities of another gamut.
    """
    primaries, transfer = _code_points(head)
    if primaries not in _PRIMARIES or transfer not in _TRANSFERS:
        raise UserError(
            f"its colours are of wide gamut or high dynamic range (primaries {primaries}, transfer {transfer}), "
            "expected sRGB"
        )
    profile = info.get("icc_profile")
    if profile:
        transform = _transform(bytes(profile), colours.mode)
        if transform is not None:
            return transform.apply(colours)
    elif "srgb" not in info and info.get("gamma", 0) > 0:
        colours = _with_gamma(colours, info)
    return colours.convert("RGB") if colours.mode == "CMYK" else colours


@lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> Any:
    """From a profile to sRGB; None where it changes nothing, or is no profile of such pixels."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != _SPACES[mode]:
            return None
        screen = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(source, screen, mode, "RGB", ImageCms.Intent.PERCEPTUAL, _FLAGS[mode])  # type: ignore[arg-type]
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None
    if mode == "CMYK":
        return transform
    levels = np.linspace(0, 255, 17).round().astype(np.uint8)
    if mode == "RGB":
        probe = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(17, -1, 3)
    else:
        probe = levels.reshape(1, -1)
    before = Image.fromarray(probe)
    after = transform.apply(before)
    changed = np.abs(np.asarray(after, dtype=int) - np.asarray(before.convert("RGB"), dtype=int)).max()
    return transform if changed > 2 else None  # sRGB itself, but for rounding


def _with_gamma(colours: Image.Image, info: Mapping[Any, Any]) -> Image.Image:
    chromaticity = info.get("chromaticity", _SRGB)
    if max(abs(a - b) for a, b in zip(chromaticity, _SRGB, strict=True)) > 0.005:
        raise UserError("its chromaticities are not those of sRGB, expected sRGB")
    exponent = 1 / (info["gamma"] * _DISPLAY_GAMMA)
    if abs(1 / exponent - 1) < _AS_GOOD_AS_ONE:
        return colours
    table = [round(255 * (level / 255) ** exponent) for level in range(256)]
    return colours.point(table * len(colours.getbands()))


def _code_points(head: bytes) -> tuple[int, int]:
    """Primaries and transfer of PNG's cICP or AVIF's colr box, (2, 2) (unspecified) where there are none."""
    if head.startswith(b"\x89PNG"):
        at = head.partition(b"IDAT")[0].find(b"cICP")
        return (head[at + 4], head[at + 5]) if 0 < at < len(head) - 6 else (2, 2)
    at = head.find(b"colrnclx")
    if head[4:8] == b"ftyp" and 0 < at < len(head) - 12:
        primaries, transfer = struct.unpack_from(">HH", head, at + 8)
        return primaries, transfer
    return 2, 2
