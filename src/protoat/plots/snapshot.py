"""Renders a page to PNG or PDF in a headless browser."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from protoat.errors import UserError

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

__all__ = ["SUFFIXES", "check_browser", "snapshot"]

SUFFIXES = (".png", ".pdf")
_WIDTH = 1200  # pixels of the window
_PIXELS_PER_CM = 96 / 2.54  # those of CSS
_SECONDS = 60  # until all plots are drawn
_DRAWN = "return [...document.querySelectorAll('.plotly-graph-div')].every(plot => plot.querySelector('.main-svg .xy'))"
_HEIGHT = "return document.documentElement.scrollHeight"


def check_browser() -> None:
    """Starts a browser and ends it, so that its absence is said before hours of work.

    Raises:
        ValueError: selenium or a browser is missing.
    """
    with _browser():
        pass


def snapshot(page: str, kind: str) -> bytes:
    """The whole page as a file: one image at twice the resolution of a screen, or one sheet of PDF.

    Args:
        page: HTML that needs no network, as from `protoat.plots.page`.
        kind: of `SUFFIXES`.

    Raises:
        ValueError: selenium or a browser is missing, or the browser fails.
    """
    from selenium.webdriver.common.print_page_options import PrintOptions
    from selenium.webdriver.support.ui import WebDriverWait

    with _browser() as browser, TemporaryDirectory() as folder:
        file = Path(folder) / "page.html"
        file.write_text(page, encoding="utf-8")
        browser.get(file.as_uri())
        WebDriverWait(browser, _SECONDS).until(lambda shown: shown.execute_script(_DRAWN))
        height = browser.execute_script(_HEIGHT)
        if kind == ".png":
            whole = {"x": 0, "y": 0, "width": _WIDTH, "height": height, "scale": 1}
            taken = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": whole})
            return base64.b64decode(taken["data"])
        sheet = PrintOptions()
        sheet.background = True
        sheet.page_width, sheet.page_height = _WIDTH / _PIXELS_PER_CM, (height + 1) / _PIXELS_PER_CM
        sheet.margin_top = sheet.margin_bottom = sheet.margin_left = sheet.margin_right = 0
        return base64.b64decode(browser.print_page(sheet))


@contextmanager
def _browser() -> Iterator[Chrome]:
    """Chromium where the system has it, else what selenium finds or fetches."""
    try:
        from selenium.common.exceptions import WebDriverException
        from selenium.webdriver import Chrome, ChromeOptions, ChromeService
    except ImportError:
        raise UserError("pictures of pages need selenium: pip install 'protoat[pictures]'") from None
    options = ChromeOptions()
    flags = ["--headless=new", "--hide-scrollbars", "--force-device-scale-factor=2", f"--window-size={_WIDTH},900"]
    as_root = hasattr(os, "geteuid") and os.geteuid() == 0  # for whom Chromium has no sandbox
    for flag in [*flags, *["--no-sandbox"] * as_root]:
        options.add_argument(flag)
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program and driver:
        options.binary_location = program
    browser = None
    try:
        browser = Chrome(options=options, service=ChromeService(driver) if program and driver else None)
        yield browser
    except WebDriverException as error:
        reason = (error.msg or type(error).__name__).splitlines()[0]
        raise UserError(
            f"pictures of pages need Chrome or Chromium with its chromedriver, and HTML needs neither: {reason}"
        ) from None
    finally:
        if browser is not None:
            browser.quit()
