"""Pages as pictures."""

from __future__ import annotations

import io
import re
import shutil
import sys

import numpy as np
import pytest
from PIL import Image
from plotly.graph_objects import Figure, Scatter

from protoat.plots.page import page
from protoat.plots.snapshot import check_browser, snapshot

_RED = "#d00000"


@pytest.fixture(scope="module")
def tall() -> str:
    """A page with a red plot that ends in a red bar, far below the window of the browser."""
    plot = Figure(Scatter(x=[1, 2], y=[1, 2], marker={"color": _RED, "size": 40}, mode="markers"))
    bar = f'<div style="margin-top:2000px;height:50px;background:{_RED}"></div>'
    return page("tall", ["a line"], [plot, bar])


@pytest.fixture
def browser() -> None:
    pytest.importorskip("selenium", reason="selenium is not installed: pip install 'protoat[pictures]'")
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("Chromium is absent: apt-get install chromium chromium-driver")


@pytest.mark.slow
@pytest.mark.usefixtures("browser")
def test_image_shows_plots_and_the_whole_page(tall: str) -> None:
    pixels = np.asarray(Image.open(io.BytesIO(snapshot(tall, ".png"))).convert("RGB"))
    height, width, _ = pixels.shape
    assert width == 2400 and height > 2 * 2450
    rows = (pixels == (0xD0, 0, 0)).all(axis=2).any(axis=1).nonzero()[0]
    assert rows[0] < 1000 and height - rows[-1] < 200
    assert (rows > height / 2).sum() == 100  # the bar, in pixels of twice the resolution


@pytest.mark.slow
@pytest.mark.usefixtures("browser")
def test_pdf_is_one_sheet_of_the_size_of_the_page(tall: str) -> None:
    written = snapshot(tall, ".pdf")
    assert written.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", written)) == 1
    [(width, height)] = re.findall(rb"/MediaBox\s*\[0 0 ([\d.]+) ([\d.]+)\]", written)
    assert float(width) == pytest.approx(900, abs=2) and float(height) > 0.75 * 2450


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    selenium = pytest.importorskip("selenium", reason="selenium is not installed: pip install 'protoat[pictures]'")

    def absent(**_: object) -> None:
        raise selenium.common.exceptions.WebDriverException("cannot find Chrome binary\nStacktrace")

    monkeypatch.setattr("selenium.webdriver.Chrome", absent)
    with pytest.raises(ValueError, match=r"^pictures of pages need Chrome or Chromium .*: cannot find Chrome binary$"):
        check_browser()
    monkeypatch.setitem(sys.modules, "selenium.webdriver", None)
    with pytest.raises(ValueError, match=r"pip install 'protoat\[pictures\]'"):
        check_browser()


def test_a_browser_that_fails_at_work_is_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    selenium = pytest.importorskip("selenium", reason="selenium is not installed: pip install 'protoat[pictures]'")
    ended = []

    class Broken:
        def __init__(self, **_: object) -> None: ...

        def get(self, address: str) -> None:
            raise selenium.common.exceptions.TimeoutException("it took too long\nStacktrace")

        def quit(self) -> None:
            ended.append(True)

    monkeypatch.setattr("selenium.webdriver.Chrome", Broken)
    with pytest.raises(ValueError, match=r"needs? .*Chromium.*: it took too long$"):
        snapshot("a page", ".png")
    assert ended
