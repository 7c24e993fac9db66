"""Figures as files, and as parts of a page."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

import protoat
from protoat.plots.curves import training_curves
from protoat.plots.pictures import Picture, Pictures, Row, data_uri
from protoat.plots.plot import as_file
from protoat.plots.style import COLOURS, SOFT, TEXT, names
from tests.plots.reading import on_page


def test_files_hold_the_figure_alone_and_its_text_as_text(ours: Path) -> None:
    plot = training_curves([ours])
    svg = as_file([plot], ".svg").decode()
    assert "held out, clean</text>" in svg and "2 of 2 epochs" not in svg  # said about it, not in it
    ElementTree.fromstring(svg)
    pdf = as_file([plot, plot], ".pdf")
    assert pdf.startswith(b"%PDF") and len(re.findall(rb"/Type /Page\b", pdf)) == 2
    assert b"/Type3" not in pdf  # which journals refuse
    pixels = np.asarray(Image.open(io.BytesIO(as_file([plot], ".png"))).convert("RGB"))
    assert (pixels[0, 0] == 255).all()
    assert [as_file([plot], kind) for kind in (".svg", ".pdf")] == [as_file([plot], kind) for kind in (".svg", ".pdf")]
    with pytest.raises(ValueError, match=r"\.svg holds one figure, and there are 2; write \.pdf"):
        as_file([plot, plot], ".svg")


def test_a_page_gives_its_colours_and_two_figures_share_no_id(ours: Path) -> None:
    plot = training_curves([ours])
    one, two = plot.svg("one"), plot.svg("two")
    assert f"var(--series-{COLOURS.index('#0072b2')})" in one and "var(--soft)" in one
    assert not {TEXT, SOFT, *COLOURS} & set(re.findall(r"#[0-9a-f]{6}", one))
    ids = [set(re.findall(r'\bid="([^"]*)"', drawn)) for drawn in (one, two)]
    assert ids[0] and not ids[0] & ids[1]
    used = set(re.findall(r'(?:url\(|href=")#([^")]*)', one))
    assert used and used <= ids[0]


def test_the_style_of_the_program_does_not_matter(ours: Path) -> None:
    expected = training_curves([ours]).svg("figure")
    with matplotlib.rc_context({"svg.fonttype": "path", "text.usetex": True, "font.size": 20, "text.color": "red"}):
        assert training_curves([ours]).svg("figure") == expected


def test_rows_of_pictures_are_marked_by_more_than_a_colour() -> None:
    image = torch.rand(3, 8, 8)
    rows = [
        Row("<row>", "a note", [Picture([image, image], ["<one>", "two"], "$a$ <b>", wrong)]) for wrong in (True, False)
    ]
    pictures = Pictures("title", ["about"], rows)
    drawn = on_page(pictures)
    assert drawn.count("&#10007;") == drawn.count('class="wrong"') == 1
    assert drawn.count("<img ") == 4 and drawn.count('alt="&lt;one&gt;"') == 2 and "<one>" not in drawn
    axes = pictures.plot().axes[0]
    assert repr(pictures) == "Pictures('title', 2 rows)" and pictures._repr_png_().startswith(b"\x89PNG")
    assert len(axes.images) == 4 and {"✗ $a$ <b>", "$a$ <b>"} <= {text.get_text() for text in axes.texts}
    as_file([pictures.plot()], ".pdf")


@pytest.mark.parametrize(("shape", "size"), [((3, 300, 200), (64, 96)), ((1, 8, 8), (8, 8)), ((2, 5, 5), (5, 5))])
def test_images_of_a_page_are_small_and_not_distorted(shape: tuple[int, int, int], size: tuple[int, int]) -> None:
    image = torch.full(shape, 0.5)
    image[:, : shape[1] // 2] = 1
    picture = Image.open(io.BytesIO(base64.b64decode(data_uri(image).partition(",")[2])))
    assert picture.size == size
    pixels = np.asarray(picture.convert("L"))
    assert abs(int(pixels[0, 0]) - 255) <= 2 and abs(int(pixels[-1, -1]) - 128) <= 2


def test_every_figure_is_at_the_door_and_in_its_stub() -> None:
    stub = Path(protoat.plots.__file__).with_suffix(".pyi").read_text()
    assert dir(protoat.plots) == protoat.plots.__all__
    assert sorted(re.findall(r" as (\w+)$", stub, re.MULTILINE)) == protoat.plots.__all__
    assert all(callable(getattr(protoat.plots, name)) for name in protoat.plots.__all__)


def test_names_are_short_and_distinct() -> None:
    assert names([Path("runs/a"), Path("runs/b")]) == ["a", "b"]
    assert names([Path("a/run"), Path("b/run"), Path("run")]) == ["a/run", "b/run", "run"]
    assert len(set(names([Path("x/y/run"), Path("z/y/run"), Path("/y/run")]))) == 3
