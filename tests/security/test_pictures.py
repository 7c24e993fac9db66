"""Crafted pictures and folders of them: each ends in one line, soon, within little memory, and starts no program."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

# Loads folders one after the other in a process of its own, where a started program would end it.
LOADER = """
import json, os, resource, sys, time
import PIL.Image, PIL.ImageCms, torch
from protoat.data import ImageFolder

def forbidden(event, args):
    if event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork"):
        os._exit(3)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

sys.addaudithook(forbidden)
before = peak()
for folder in sys.argv[1:]:
    start = time.process_time()
    try:
        said = f"read {len(ImageFolder(path=folder, image_size=8).load('train'))}"
    except (ValueError, FileNotFoundError) as error:
        said = f"refused {error}"
    print(json.dumps([said, time.process_time() - start, peak() - before]), flush=True)
"""


def fill(folder: Path) -> Path:
    """Two classes of three pictures each."""
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", (8, 8), (index, 3, ord(name))).save(folder / name / f"{index}.png")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path / "set")


def load(*folders: Path) -> list[str]:
    """What a reader says of each folder."""
    environment = os.environ | {"PROTOAT_CACHE": str(folders[0].parent / "cache")}
    command = [sys.executable, "-c", LOADER, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = []
    for line in done.stdout.splitlines():
        said, seconds, peak = json.loads(line)
        assert seconds < 10 and peak < 1000, (said, seconds, peak)
        found.append(said)
    assert len(found) == len(folders)
    return found


def png_of(width: int, height: int, body: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), *chunks, (b"IDAT", body), (b"IEND", b"")]
    packed = (struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(%pipe%touch PWNED) (w) file pop\nshowpage\n%%EOF\n"
CRAFTED = {
    "bomb.png": (png_of(60000, 60000, zlib.compress(b"\0" * 10**6)), "pixels"),
    "below_twice_the_limit.png": (
        png_of(12000, 12000, zlib.compress(b"\0" * 10**6)),
        "Pillow's limit is|exceeds limit",
    ),
    "bomb.gif": (
        b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\0\0\0," + struct.pack("<4H", 0, 0, 1, 1) + b"\0\2\2\x4c\1\0;",
        "pixels",
    ),
    "bomb.bmp": (b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 50000, 50000, 1, 24, *[0] * 6), "pixels"),
    "text.png": (png_of(8, 8, zlib.compress(b"\0" * 200), (b"zTXt", b"k\0\0" + zlib.compress(b"x" * 10**8))), ""),
    "profile.png": (png_of(8, 8, zlib.compress(b"\0" * 200), (b"iCCP", b"k\0\0" + zlib.compress(b"x" * 10**8))), ""),
    "postscript.png": (POSTSCRIPT, "cannot identify"),
    "postscript.jpg": (POSTSCRIPT, "cannot identify"),
    "drawing.png": (b"\xd7\xcd\xc6\x9a\0\0" + struct.pack("<4hH", 0, 0, 8, 8, 72) + b"\0" * 64, "cannot identify"),
    "layers.png": (b"8BPS\0\1" + b"\0" * 6 + struct.pack(">HIIHH", 3, 8, 8, 8, 3) + b"\0" * 64, "cannot identify"),
    "array.png": (b"SIMPLE  =                    T" + b" " * 2850, "cannot identify"),
    "page.png": (b"<!DOCTYPE html><html><body>Not found</body></html>", "cannot identify"),
    "pickle.png": (b"cos\nsystem\n(S'touch PWNED'\ntR.", "cannot identify"),
    "vector.png": (b"<svg xmlns='http://www.w3.org/2000/svg'><image href='/etc/passwd'/></svg>", "cannot identify"),
    "empty.png": (b"", "it is empty"),
    "zeros.png": (b"\0" * 4096, "cannot identify"),
    "zeros.tga": (b"\0" * 4096, "cannot identify"),
    "loop.tif": (b"II*\0\x08\0\0\0\0\0\x08\0\0\0", ""),
    "cut.png": (png_of(8, 8, zlib.compress(b"\0" * 200))[:45], ""),
}


def sparse(folder: Path) -> None:
    with (folder / "a" / "huge.png").open("wb") as file:
        file.truncate(2**42)


def links(folder: Path) -> None:
    outside = folder.with_name("secret.png")
    Image.new("RGB", (8, 8), "red").save(outside)
    (folder / "a" / "link.png").symlink_to(outside)
    (folder / "a" / "zero.png").symlink_to("/dev/zero")
    (folder / "a" / "loop.png").symlink_to(folder / "a" / "loop.png")
    (folder / "a" / "up").symlink_to(folder, target_is_directory=True)
    (folder / "c").symlink_to(folder, target_is_directory=True)
    os.mkfifo(folder / "a" / "pipe.png")


def name_of_a_file(folder: Path) -> None:
    os.rename(os.fsencode(folder / "a" / "0.png"), os.fsencode(folder / "a") + b"/\xff.png")  # noqa: PTH104


FOLDERS: dict[str, Callable[[Path], object]] = {
    "sparse": sparse,
    "links": links,
    "name of a file": name_of_a_file,
    "name of a folder": lambda folder: os.mkdir(os.fsencode(folder) + b"/\xfe"),  # noqa: PTH102
    "deep": lambda folder: (folder / "a" / "/".join(["m"] * 500)).mkdir(parents=True),
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The message for a folder with one crafted picture, for each such picture, and for each crafted folder.

    One process reads them all, since to start one takes longer.
    """
    root = tmp_path_factory.mktemp("crafted")
    folders = {name: fill(root / f"set{index}") for index, name in enumerate((*CRAFTED, *FOLDERS))}
    for name, (content, _) in CRAFTED.items():
        (folders[name] / "a" / name).write_bytes(content)
    for name, craft in FOLDERS.items():
        craft(folders[name])
    answers = dict(zip(folders, load(*folders.values()), strict=True))
    assert not Path("PWNED").exists() and list(root.rglob("PWNED")) == []
    return answers


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_picture_is_named(answers: dict[str, str], name: str) -> None:
    said, reason = answers[name], CRAFTED[name][1]
    assert said.startswith("refused") and name in said and "cannot be read as an image" in said, said
    assert "\n" not in said and (not reason or any(part in said for part in reason.split("|"))), said


def test_crafted_folders(answers: dict[str, str]) -> None:
    assert "huge.png has 4398046511104 bytes, too many for a picture" in answers["sparse"]
    assert answers["links"] == answers["name of a file"] == "read 4"
    said = answers["name of a folder"]
    assert said.startswith("refused") and "\\xfe" in said and "not UTF-8; rename it" in said
    assert "has no images" in answers["deep"]


@pytest.mark.slow
def test_a_large_picture_stays_within_memory(folder: Path) -> None:
    """As many pixels as Pillow takes, transparent in part, several times: threads take turns."""
    rows = 9000
    for index in range(2):
        parts = zlib.compressobj(1)
        body = b"".join(parts.compress(b"\0" + bytes([index, 0, 0, 128]) * 9000) for _ in range(rows)) + parts.flush()
        content = png_of(9000, rows, body).replace(bytes([8, 2, 0, 0, 0]), bytes([8, 6, 0, 0, 0]), 1)
        header = content[12:29]
        (folder / "a" / f"large{index}.png").write_bytes(
            content[:29] + struct.pack(">I", zlib.crc32(header)) + content[33:]
        )
    assert load(folder)[0] == "read 6"


@pytest.mark.slow
def test_a_huge_folder(folder: Path) -> None:
    content = (folder / "a" / "0.png").read_bytes()
    for index in range(20_000):
        (folder / "a" / f"{index}.txt").touch()
    for index in range(3000):
        (folder / "a" / f"n{index}.png").write_bytes(content)
    assert load(folder)[0].startswith("read")
