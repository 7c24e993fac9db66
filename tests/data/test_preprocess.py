"""Serving reads a picture as training does, whichever way it is given."""

from __future__ import annotations

import io
import warnings
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from protoat.data import ImageFolder, Preprocess

_RANDOM = np.random.default_rng(0)


def _noise(*shape: int) -> np.ndarray:
    return _RANDOM.integers(0, 256, shape, dtype=np.uint8)


def _turned() -> bytes:
    exif = Image.Exif()
    exif[274] = 6
    return _saved(Image.fromarray(_noise(20, 30, 3)), "JPEG", exif=exif)


def _saved(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


COLOURED = {
    "turned.jpg": _turned(),
    "transparent.png": _saved(Image.fromarray(_noise(17, 40, 4)), "PNG"),
    "palette.gif": _saved(Image.fromarray(_noise(16, 16, 3)).quantize(16), "GIF"),
    "cmyk.tif": _saved(Image.fromarray(_noise(12, 40, 3)).convert("CMYK"), "TIFF"),
    "small.webp": _saved(Image.fromarray(_noise(5, 9, 3)), "WEBP", lossless=True),
}
GREY = {
    "deep.png": _saved(Image.fromarray(_RANDOM.integers(0, 2**16, (20, 30)).astype(np.uint16)), "PNG"),
    "grey.png": _saved(Image.fromarray(_noise(16, 16)), "PNG"),
    "seen.png": _saved(Image.fromarray(_noise(9, 16, 2), "LA"), "PNG"),
}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROTOAT_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("files", [COLOURED, GREY], ids=["coloured", "grey"])
@pytest.mark.parametrize("background", ["white", "black"])
def test_pixels_are_those_of_training(files: dict[str, bytes], background: str, tmp_path: Path) -> None:
    paths = []
    for half in ("train", "test"):
        for place, (name, content) in enumerate(sorted(files.items())):
            paths.append(tmp_path / half / "ab"[place % 2] / name)
            paths[-1].parent.mkdir(parents=True, exist_ok=True)
            paths[-1].write_bytes(content)
    trained = ImageFolder(path=tmp_path, image_size=16, background=background).load("test")
    names = [path for half in "ab" for path in sorted(paths) if path.parts[-3:-1] == ("test", half)]
    preprocess = Preprocess(trained.shape, background)
    assert torch.equal(preprocess(names), trained.pixels())
    assert torch.equal(preprocess([path.read_bytes() for path in names]), trained.pixels())
    with ExitStack() as files_open:
        opened = [files_open.enter_context(Image.open(path)) for path in names]
        assert torch.equal(preprocess(opened), trained.pixels())
        assert torch.equal(preprocess(opened), trained.pixels())  # once more: they are left as they were


def test_a_coloured_picture_becomes_grey_where_one_channel_is_taken() -> None:
    pixels = _noise(8, 8, 3)
    grey = Preprocess((1, 8, 8))(pixels)
    luma = pixels @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    np.testing.assert_allclose(255 * grey[0, 0].numpy(), luma, atol=0.51)


def test_tensors_and_arrays_are_taken_as_they_are() -> None:
    preprocess, batch = Preprocess((3, 8, 8)), torch.rand(2, 3, 8, 8)
    assert torch.equal(preprocess(batch), batch)
    assert torch.equal(preprocess(list(batch)), batch)
    assert torch.equal(preprocess(batch.double().numpy()), batch)
    eight = (255 * batch).round().byte()
    assert torch.equal(preprocess(eight), eight.float() / 255)
    assert torch.equal(preprocess([*eight.permute(0, 2, 3, 1).numpy()]), eight.float() / 255)  # as pictures
    assert preprocess([]).shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (torch.rand(1, 8, 8), r"shape \(1, 8, 8\), expected \(3, 8, 8\)"),
        (torch.full((3, 8, 8), 2.0), r"expected \[0, 1\]"),
        ("nowhere.png", "there is no file nowhere.png"),
        (b"", "it is empty"),
        (b"not a picture", "cannot identify"),
        (7, "images are a int"),
        ([7], "an image is a int"),
        ({"a": 1}, "images are a dict"),
        (Image.new("F", (8, 8)), "pixels are of type 'F'"),
    ],
)
def test_what_is_no_image_is_refused_in_words(image: object, said: str) -> None:
    with warnings.catch_warnings(), pytest.raises(ValueError, match=said):
        Preprocess((3, 8, 8))(image)


def test_it_is_rebuilt_from_its_values_and_its_repr() -> None:
    preprocess = Preprocess((3, 16, 20), "#102030")
    assert Preprocess.from_json(preprocess.to_json()) == preprocess == eval(repr(preprocess))
    with pytest.raises(ValueError, match="no colour"):
        Preprocess((3, 8, 8), "whitish")
