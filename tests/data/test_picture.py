"""Pixels against values worked out by hand from the formats' definitions; the files are written by hand, too."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from protoat.data.cache import decode_once, file_digests
from protoat.data.picture import colour_of

WHITE, BLACK = "white", "black"


def png(depth: int, kind: int, rows: list[bytes], width: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG from packed rows of samples; `kind`: 0 grey, 2 colour, 3 palette, 4 grey and alpha, 6 colour and alpha."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, len(rows), depth, kind, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def tiff(tags: dict[int, tuple[int, ...]], data: bytes, order: str = "<") -> bytes:
    """An uncompressed TIFF of one strip; values of a tag are shorts."""
    tags = {**tags, 273: (8,), 279: (len(data),)}  # where the strip is, its bytes
    at = 8 + len(data) + len(data) % 2
    later, entries, free = b"", b"", at + 2 + 12 * len(tags) + 4
    for tag, values in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}H", *values)
        if len(packed) > 4:
            where = struct.pack(f"{order}I", free + len(later))
            later += packed
        else:
            where = packed.ljust(4, b"\0")
        entries += struct.pack(f"{order}HHI", tag, 3, len(values)) + where
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", at) + data + b"\0" * (len(data) % 2)
    return start + struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", 0) + later


def icc(kind: bytes, gamma: float) -> bytes:
    """A display profile with sRGB's primaries (or a grey one) and a power law in place of sRGB's curve."""

    def xyz(x: float, y: float, z: float) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(65536 * value) for value in (x, y, z)))

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(256 * gamma)) + b"\0\0"
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + b"\0" * 79
    tags = {b"desc": text, b"wtpt": xyz(0.9642, 1, 0.8249), b"cprt": b"text\0\0\0\0none"}
    if kind == b"GRAY":
        tags[b"kTRC"] = curve
    else:
        columns = {b"r": (0.4361, 0.2225, 0.0139), b"g": (0.3851, 0.7169, 0.0971), b"b": (0.1431, 0.0606, 0.7141)}
        for name, column in columns.items():
            tags |= {name + b"XYZ": xyz(*column), name + b"TRC": curve}
    table, content, at = b"", b"", 132 + 12 * len(tags)
    for name, value in tags.items():
        padded = value + b"\0" * (-len(value) % 4)
        table += name + struct.pack(">II", at + len(content), len(value))
        content += padded
    header = struct.pack(">I4sI4s4s4s", 0, b"lcms", 0x02400000, b"mntr", kind, b"XYZ ")
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + b"\0" * 28 + struct.pack(">3i", 63190, 65536, 54061)
    whole = header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + content
    return struct.pack(">I", len(whole)) + whole[4:]


def screen(linear: float) -> float:
    """sRGB's curve (IEC 61966-2-1), from light to a level of 0 to 255."""
    return 255 * (12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055)


def read(path: Path, background: str = WHITE) -> Any:
    """(H, W, C) levels of one file."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return decode_once([path], file_digests([path]), background=background)[0].permute(1, 2, 0).numpy()


def of_bytes(tmp_path: Path, content: bytes, background: str = WHITE, name: str = "x.png") -> list[Any]:
    path = tmp_path / name
    path.write_bytes(content)
    return read(path, background).tolist()


def refused(tmp_path: Path, content: bytes | None, reason: str, name: str = "x.png") -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} cannot be read as an image .*{reason}") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def over(colour: int, alpha: int, background: int) -> int:
    return round((colour * alpha + background * (255 - alpha)) / 255)


@pytest.mark.parametrize(("background", "level"), [(WHITE, 255), (BLACK, 0), ("#808080", 128)])
def test_shape_that_lies_in_alpha_alone(tmp_path: Path, background: str, level: int) -> None:
    alpha = [0, 1, 77, 128, 200, 255]
    row = bytes(value for a in alpha for value in (0, 0, 0, a))
    expected = [[[over(0, a, level)] * 3 for a in alpha]]
    assert of_bytes(tmp_path, png(8, 6, [row], 6), background) == expected
    row = bytes(value for a in alpha for value in (200, a))
    assert of_bytes(tmp_path, png(8, 4, [row], 6), background) == [[[over(200, a, level)] for a in alpha]]


def test_grey_over_a_colour_is_colour(tmp_path: Path) -> None:
    picture = png(8, 4, [bytes([200, 0, 200, 255])], 2)
    assert of_bytes(tmp_path, picture, "#102030") == [[[16, 32, 48], [200, 200, 200]]]
    assert colour_of("#102030") == (16, 32, 48)


def test_transparent_entries_of_a_palette(tmp_path: Path) -> None:
    palette, alpha = (b"PLTE", bytes([10, 20, 30, 40, 50, 60, 70, 80, 90])), (b"tRNS", bytes([255, 128]))
    expected = [[[10, 20, 30], [over(v, 128, 255) for v in (40, 50, 60)], [70, 80, 90]]]
    assert of_bytes(tmp_path, png(8, 3, [bytes([0, 1, 2])], 3, palette, alpha)) == expected
    assert of_bytes(tmp_path, png(2, 3, [bytes([0b00011000])], 3, palette, alpha)) == expected


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_transparent_grey_level(tmp_path: Path, depth: int) -> None:
    """The chunk holds a sample as it is stored, of the file's own depth."""
    most = 2**depth - 1
    samples = [0, 1, most] if depth < 16 else [30000, 30001, most]
    key = samples[1]
    if depth == 16:
        row = struct.pack(">3H", *samples)
    else:
        bits = "".join(f"{sample:0{depth}b}" for sample in samples)
        row = int(bits.ljust(-len(bits) % 8 + len(bits), "0"), 2).to_bytes((len(bits) + 7) // 8, "big")
    expected = [[[255 if s == key else s >> 8 if depth == 16 else s * 255 // most] for s in samples]]
    assert of_bytes(tmp_path, png(depth, 0, [row], 3, (b"tRNS", struct.pack(">H", key)))) == expected


def test_a_transparent_colour(tmp_path: Path) -> None:
    row, key = bytes([10, 20, 30, 10, 20, 31]), (b"tRNS", struct.pack(">3H", 10, 20, 30))
    assert of_bytes(tmp_path, png(8, 2, [row], 2, key), BLACK) == [[[0, 0, 0], [10, 20, 31]]]
    row = struct.pack(">6H", 2570, 20, 30, 2571, 20, 30)  # the same in eight bits
    refused(
        tmp_path, png(16, 2, [row], 2, (b"tRNS", struct.pack(">3H", 2570, 20, 30))), "16-bit colours is transparent"
    )


def test_upper_eight_of_sixteen_bits_in_png(tmp_path: Path) -> None:
    levels = [0, 255, 256, 30000, 40000, 65535]
    upper = [level >> 8 for level in levels]
    assert all(abs(own - 255 * level / 65535) < 1 for own, level in zip(upper, levels, strict=True))
    row = struct.pack(">6H", *levels)
    assert of_bytes(tmp_path, png(16, 0, [row], 6)) == [[[level] for level in upper]]
    assert of_bytes(tmp_path, png(16, 2, [row], 2)) == [[upper[:3], upper[3:]]]
    row = struct.pack(">4H", 40000, 65535, 30000, 0)
    assert of_bytes(tmp_path, png(16, 4, [row], 2)) == [[[156], [255]]]
    row = struct.pack(">8H", 40000, 300, 0, 65535, 1, 2, 3, 0)
    assert of_bytes(tmp_path, png(16, 6, [row], 2)) == [[[156, 1, 0], [255] * 3]]


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_and_twelve_bits_in_tiff(tmp_path: Path, order: str) -> None:
    def grey(bits: int, zero_is: int, data: bytes) -> bytes:
        tags = {256: (2,), 257: (1,), 258: (bits,), 259: (1,), 262: (zero_is,), 277: (1,), 278: (1,)}
        return tiff(tags, data, order)

    data = struct.pack(f"{order}2H", 40000, 300)
    assert of_bytes(tmp_path, grey(16, 1, data), name="x.tif") == [[[156], [1]]]
    colour = {256: (2,), 257: (1,), 258: (16, 16, 16), 259: (1,), 262: (2,), 277: (3,), 278: (1,)}
    data6 = struct.pack(f"{order}6H", 40000, 300, 65535, 0, 255, 256)
    assert of_bytes(tmp_path, tiff(colour, data6, order), name="y.tif") == [[[156, 1, 255], [0, 0, 1]]]
    if order == "<":
        assert of_bytes(tmp_path, grey(16, 0, data), name="white.tif") == [[[255 - 156], [255 - 1]]]
        twelve = bytes([0xFF, 0xF8, 0x00])  # 4095 and 2048, packed
        assert of_bytes(tmp_path, grey(12, 1, twelve), name="12.tif") == [[[255], [128]]]


def test_portable_maps(tmp_path: Path) -> None:
    deep = struct.pack(">2H", 40000, 300)
    assert of_bytes(tmp_path, b"P5 2 1 65535\n" + deep, name="x.pgm") == [[[156], [1]]]
    assert of_bytes(tmp_path, b"P2 2 1 15\n15 3\n", name="y.pgm") == [[[255], [51]]]
    assert of_bytes(tmp_path, b"P3 1 1 255\n1 2 3\n", name="x.ppm") == [[[1, 2, 3]]]
    assert of_bytes(tmp_path, b"P4 2 1\n\x40", name="x.pbm") == [[[255], [0]]]  # one is ink
    refused(tmp_path, b"Pf 1 1 -1.0\n" + struct.pack("<f", 0.5), "type 'F'", "x.pfm")


TURNED = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).transpose(1, 0, 2),
    8: np.rot90,
    9: lambda x: x,  # undefined
}


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg"])
@pytest.mark.parametrize("orientation", TURNED)
def test_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    pixels = np.kron(
        np.random.default_rng(0).integers(0, 256, (2, 3, 1), dtype=np.uint8), np.ones((16, 16, 3), np.uint8)
    )
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(pixels).save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    expected = TURNED[orientation](pixels).astype(int)
    found = read(path)
    assert found.shape == expected.shape and np.abs(found - expected).max() <= (3 if suffix == "jpg" else 0)


def test_a_damaged_block_of_a_camera_turns_nothing(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2), "red").save(tmp_path / "x.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    assert read(tmp_path / "x.png").shape == (2, 3, 3)


def test_ink(tmp_path: Path) -> None:
    inks = [(0, 0, 0, 0), (255, 0, 0, 0), (0, 0, 0, 255), (100, 50, 0, 128)]
    expected = [[round((255 - ink) * (255 - black) / 255) for ink in rest] for *rest, black in inks]
    tags = {256: (4,), 257: (1,), 258: (8,) * 4, 259: (1,), 262: (5,), 277: (4,), 278: (1,)}
    found = np.array(of_bytes(tmp_path, tiff(tags, bytes(v for ink in inks for v in ink)), name="x.tif"))
    assert np.abs(found - np.array([expected])).max() <= 1
    for ink, colour in zip(inks, expected, strict=True):  # as Adobe writes it: inverted, with its mark
        Image.new("CMYK", (16, 16), ink).save(tmp_path / "x.jpg", quality=100)
        assert b"Adobe" in (tmp_path / "x.jpg").read_bytes()
        assert np.abs(read(tmp_path / "x.jpg") - np.array(colour)).max() <= 2


@pytest.mark.skipif(not features.check("littlecms2"), reason="Pillow without colour profiles")
@pytest.mark.parametrize("gamma", [1.0, 1.8])
def test_embedded_profile(tmp_path: Path, gamma: float) -> None:
    levels = np.arange(0, 256, 5, dtype=np.uint8).reshape(1, -1)
    expected = np.array([screen((level / 255) ** (round(256 * gamma) / 256)) for level in levels[0]])
    for kind, pixels in ((b"GRAY", levels), (b"RGB ", np.stack([levels] * 3, -1))):
        Image.fromarray(pixels).save(tmp_path / "x.png", icc_profile=icc(kind, gamma))
        found = read(tmp_path / "x.png")
        assert found.shape[-1] == (1 if kind == b"GRAY" else 3)
        assert np.abs(found[0].astype(int) - expected[:, None]).max() <= 2


@pytest.mark.parametrize("profile", ["srgb", "damaged", "of other channels"])
def test_profiles_that_change_nothing(tmp_path: Path, profile: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    content = {"srgb": srgb, "damaged": srgb[:200], "of other channels": icc(b"GRAY", 1.0)}[profile]
    Image.fromarray(pixels).save(tmp_path / "x.png", icc_profile=content)
    assert np.array_equal(read(tmp_path / "x.png"), pixels)


def test_gamma_of_png(tmp_path: Path) -> None:
    levels = bytes(range(0, 256, 15))

    def with_chunks(*chunks: tuple[bytes, bytes]) -> list[int]:
        return [level for (level,) in of_bytes(tmp_path, png(8, 0, [levels], 18, *chunks))[0]]

    linear, usual = (b"gAMA", struct.pack(">I", 100000)), (b"gAMA", struct.pack(">I", 45455))
    assert with_chunks(usual) == with_chunks(linear, (b"sRGB", b"\0")) == list(levels)
    found = with_chunks(linear)
    assert max(abs(own - screen(level / 255)) for own, level in zip(found, levels, strict=True)) < 7
    assert found[0] == 0 and found[-1] == 255 and found[4] == round(255 * (60 / 255) ** (1 / 2.2))
    srgb = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
    wide = struct.pack(">8I", 31270, 32900, 70800, 29200, 17000, 79700, 13100, 4600)
    assert with_chunks((b"cHRM", srgb), linear) == found
    refused(tmp_path, png(8, 0, [levels], 18, (b"cHRM", wide), linear), "chromaticities")


def test_high_dynamic_range_is_refused(tmp_path: Path) -> None:
    row = bytes([1, 2, 3])
    assert of_bytes(tmp_path, png(8, 2, [row], 1, (b"cICP", bytes([1, 13, 0, 1])))) == [[[1, 2, 3]]]
    refused(tmp_path, png(8, 2, [row], 1, (b"cICP", bytes([9, 16, 0, 1]))), "high dynamic range")
    if features.check("avif"):
        Image.new("RGB", (16, 16), "red").save(tmp_path / "x.avif")
        content = (tmp_path / "x.avif").read_bytes()
        read(tmp_path / "x.avif")
        at = content.index(b"colrnclx") + 8
        refused(tmp_path, content[:at] + struct.pack(">HH", 9, 16) + content[at + 4 :], "high dynamic range", "y.avif")


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_several_frames_or_pages_are_refused_and_one_is_read(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    path = tmp_path / f"x.{suffix}"
    more = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], **more)
    refused(tmp_path, None, "animated or has several pages", path.name)
    frames[0].save(path, **more)
    assert np.abs(read(path) - np.array([255, 0, 0])).max() == 0


def test_first_picture_of_a_phone(tmp_path: Path) -> None:
    """Phones hide a second picture, such as a depth map, behind the one that is shown."""
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "x.jpg", format="MPO", save_all=True, append_images=frames[1:])
    assert np.abs(read(tmp_path / "x.jpg").astype(int) - np.array([255, 0, 0])).max() <= 2


def test_pixels_without_a_form_of_eight_bits(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), 0.5, dtype=np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.full((2, 2), 70000, dtype=np.int32)).save(tmp_path / "deep.tif")
    Image.new("LAB", (2, 2)).save(tmp_path / "lab.tif")
    for name, kind in (("float", "F"), ("deep", "I"), ("lab", "LAB")):
        refused(tmp_path, None, f"type '{kind}'", f"{name}.tif")


def test_one_bit(tmp_path: Path) -> None:
    assert of_bytes(tmp_path, png(1, 0, [bytes([0b01000000])], 2)) == [[[0], [255]]]
    tags = {256: (2,), 257: (1,), 258: (1,), 259: (1,), 262: (0,), 277: (1,), 278: (1,)}
    assert of_bytes(tmp_path, tiff(tags, bytes([0b01000000])), name="x.tif") == [[[255], [0]]]  # zero is white


def test_premultiplied_alpha(tmp_path: Path) -> None:
    tags = {256: (2,), 257: (1,), 258: (8,) * 4, 259: (1,), 262: (2,), 277: (4,), 278: (1,), 338: (1,)}
    found = of_bytes(tmp_path, tiff(tags, bytes([100, 50, 0, 128, 0, 0, 0, 0])), BLACK, "x.tif")
    assert np.abs(np.array(found) - np.array([[[100, 50, 0], [0, 0, 0]]])).max() <= 1  # on black it shows as stored


FORMATS = ["bmp", "dib", "gif", "ico", "jfif", "jpe", "jpg", "pcx", "png", "pnm", "qoi", "sgi", "tga", "tiff", "webp"]


@pytest.mark.parametrize("suffix", [*FORMATS, "dds", "jp2", "avif"])
def test_every_format(tmp_path: Path, suffix: str) -> None:
    if not features.check({"jp2": "jpg_2000", "avif": "avif"}.get(suffix, "pil")):
        pytest.skip(f"Pillow without {suffix}")
    pixels = np.kron(np.random.default_rng(1).integers(0, 256, (2, 2, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
    path = tmp_path / f"x.{suffix.upper()}"
    more = {"lossless": True} if suffix == "webp" else {"sizes": [(16, 16)]} if suffix == "ico" else {}
    Image.fromarray(pixels).save(path, **more)
    lossy = suffix in ("jfif", "jpe", "jpg", "avif")
    assert np.abs(read(path).astype(int) - pixels).mean() <= (12 if lossy else 0)


def test_cached_pixels_of_other_rules_or_backgrounds_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = png(8, 6, [bytes([0, 0, 0, 0])], 1)
    assert of_bytes(tmp_path, picture, WHITE) == [[[255] * 3]] and of_bytes(tmp_path, picture, BLACK) == [[[0] * 3]]
    seven = Image.new("RGB", (1, 1), (7, 7, 7))
    monkeypatch.setattr("protoat.data.cache.read_picture", lambda *args, **options: (seven, False))
    assert of_bytes(tmp_path, picture, WHITE) == [[[255] * 3]]
    monkeypatch.setattr("protoat.data.cache.RULES", 99)
    assert of_bytes(tmp_path, picture, WHITE) == [[[7] * 3]]


@pytest.mark.parametrize("background", ["whit", "", "#12", "rgba(1,2,3,4)", 3])
def test_no_background(background: Any) -> None:
    with pytest.raises(ValueError, match="write white, black or #rrggbb"):
        colour_of(background)
