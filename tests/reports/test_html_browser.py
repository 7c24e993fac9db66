"""The report as a browser shows it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from protoat.cli import main
from protoat.reports.html import report
from tests.reports.pages import SECTIONS

pytest.importorskip("selenium", reason="selenium is not installed: pip install 'protoat[test]'")

from selenium.common.exceptions import NoAlertPresentException
from selenium.webdriver import ActionChains, Chrome, ChromeOptions, ChromeService, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

pytestmark = pytest.mark.slow

_HOSTILE = "<img src=x onerror=alert(1)>"
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_LIGHT, _DARK = "rgb(255, 255, 255)", "rgb(20, 24, 30)"


def _pictures(folder: Path) -> Path:
    """A class of bright images, and one of dark images in two modes, whose name is an attack on the page."""
    random = np.random.default_rng(0)
    for place, inner in enumerate(("plain/all", f"{_HOSTILE}/one", f"{_HOSTILE}/two")):
        (folder / inner).mkdir(parents=True)
        for number in range(24):
            pixels = random.integers(0, 100, (12, 12)) + 150 * (place == 0) + 40 * (place == 1)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / inner / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def address(runs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report of two runs, one of which was trained on a class with a hostile name."""
    root = tmp_path_factory.mktemp("browser")
    data = ["--data", "ImageFolder", "--data.path", str(_pictures(root / "pictures")), "--groups", "none"]
    small = ["--epochs", "1", "--validation_size", "0", "--schedule", "none"]
    run = root / "<b>own"
    assert main(["train", "--config", "digits-2", *data, *small, "--out", str(run)]) == 0
    assert main(["evaluate", str(run), "--attacks", "clean", "pgd5"]) == 0
    return report([run, runs[0]], root / "report.html", images=100).as_uri()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """A browser with an empty profile."""
    programs = shutil.which("chromium"), shutil.which("chromedriver")
    if None in programs:
        pytest.skip("Chromium is absent: apt-get install chromium chromium-driver")
    options = ChromeOptions()
    options.binary_location = str(programs[0])
    for flag in (*_FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=ChromeService(str(programs[1])))
    yield driver
    driver.quit()


@pytest.fixture
def page(chromium: Chrome, address: str) -> Chrome:
    """The report, freshly opened in a window of a desktop that prefers light colours."""
    _prefer(chromium, "light")
    _resize(chromium, 1200)
    chromium.get(address)
    return chromium


def _prefer(page: Chrome, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def _resize(page: Chrome, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def _ask(page: Chrome, expression: str) -> Any:
    return page.execute_script(f"return {expression}")


def _map(page: Chrome) -> WebElement:
    """The map of the run with hostile names."""
    return page.find_element(By.CSS_SELECTOR, "section[aria-labelledby~=run-1-map] figure[data-images]")


def test_every_section_and_chart_is_there_without_errors(page: Chrome) -> None:
    assert [entry for entry in page.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    for run in ("run-1", "run-2"):
        titles = [item.text for item in page.find_elements(By.CSS_SELECTOR, f"article[aria-labelledby={run}] h3")]
        assert titles == SECTIONS
    figures = page.find_elements(By.CSS_SELECTOR, "figure.chart")
    assert len(figures) > 10
    assert all(figure.find_elements(By.CSS_SELECTOR, ".main-svg .xy") for figure in figures)
    for link in page.find_elements(By.CSS_SELECTOR, "nav a"):
        assert page.find_elements(By.ID, str(link.get_dom_attribute("href"))[1:])


def test_hover_on_the_map_shows_an_image(page: Chrome) -> None:
    figure = _map(page)
    image = figure.find_element(By.CSS_SELECTOR, ".viewer img")
    assert not image.is_displayed()
    point = figure.find_elements(By.CSS_SELECTOR, ".scatterlayer .trace:last-child .point")[0]
    page.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", point)
    ActionChains(page).move_to_element(point).perform()
    WebDriverWait(page, 10).until(lambda _: image.is_displayed())
    assert image.get_property("naturalWidth") == 12
    text = figure.find_element(By.CSS_SELECTOR, ".viewer p").text
    assert text == image.get_dom_attribute("alt") and text.startswith(("clean, class", "attacked, class"))


def test_keyboard_steps_through_the_map(page: Chrome) -> None:
    figure = _map(page)
    seen = []
    for _ in range(2):
        figure.find_element(By.CSS_SELECTOR, "button[data-step='1']").send_keys(Keys.ENTER)
        seen.append(figure.find_element(By.CSS_SELECTOR, ".viewer img").get_dom_attribute("src"))
    assert len(set(seen)) == 2 and all(str(source).startswith("data:image/png;base64,") for source in seen)


def test_first_stop_of_the_keyboard_skips_the_contents(page: Chrome) -> None:
    ActionChains(page).send_keys(Keys.TAB).perform()
    link = page.switch_to.active_element
    assert link.text == "Skip to the content" and link.rect["x"] >= 0
    link.send_keys(Keys.ENTER)
    assert page.switch_to.active_element.get_dom_attribute("id") == "content"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_needs_no_scrolling_sideways(page: Chrome, scheme: str) -> None:
    _resize(page, 320)
    _prefer(page, scheme)
    page.refresh()
    assert _ask(page, "window.innerWidth") == 320
    assert _ask(page, "document.documentElement.scrollWidth") <= 320
    for details in page.find_elements(By.TAG_NAME, "details"):
        page.execute_script("arguments[0].open = true", details)
    assert _ask(page, "document.documentElement.scrollWidth") <= 320


def test_hostile_names_stay_text(page: Chrome) -> None:
    with pytest.raises(NoAlertPresentException):
        page.switch_to.alert  # noqa: B018 - looking is the test
    assert _ask(page, "document.querySelectorAll('[onerror], [src=x], main b').length") == 0
    words = page.find_element(By.TAG_NAME, "main").text
    assert _HOSTILE in words and "<b>own" in words
    label = _ask(page, "[...document.querySelectorAll('svg text')].map(text => text.textContent).join()")
    assert "<img src=x" in label and "&lt;" not in label
    assert _ask(page, "document.querySelectorAll('svg image, svg a').length") == 0


def test_colours_follow_the_reader(page: Chrome) -> None:
    def background() -> Any:
        return _ask(page, "getComputedStyle(document.body).backgroundColor")

    def chart() -> Any:
        return _ask(page, "document.querySelector('.plot .main-svg').style.background")

    button = page.find_element(By.ID, "theme")
    assert (background(), button.text) == (_LIGHT, "Dark colours")
    _prefer(page, "dark")
    WebDriverWait(page, 10).until(lambda _: chart() == _DARK)
    assert (background(), button.text) == (_DARK, "Light colours")
    button.click()
    WebDriverWait(page, 10).until(lambda _: chart() == _LIGHT)
    assert (background(), button.text) == (_LIGHT, "Dark colours")
