"""The report as a browser shows it."""

from __future__ import annotations

import re
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
_LIGHT, _DARK = "rgb(244, 246, 248)", "rgb(14, 18, 23)"


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
    return page.find_element(By.CSS_SELECTOR, "section[aria-labelledby~=run-1-map] figure.mapped")


def test_every_section_and_chart_is_there_without_errors(page: Chrome) -> None:
    assert [entry for entry in page.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    for run in ("run-1", "run-2"):
        titles = [item.text for item in page.find_elements(By.CSS_SELECTOR, f"article[aria-labelledby={run}] h3")]
        assert titles == SECTIONS
    figures = page.find_elements(By.CSS_SELECTOR, "figure.chart")
    assert len(figures) > 6
    assert all(figure.find_elements(By.CSS_SELECTOR, "svg g[id*=axes]") for figure in figures)
    for link in page.find_elements(By.CSS_SELECTOR, "nav a"):
        assert page.find_elements(By.ID, str(link.get_dom_attribute("href"))[1:])


def test_hover_on_the_map_shows_an_image(page: Chrome) -> None:
    figure = _map(page)
    image = figure.find_element(By.CSS_SELECTOR, ".viewer img")
    assert not image.is_displayed()
    point = figure.find_elements(By.CSS_SELECTOR, "g[id*='-points-'] use")[0]
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
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_is_cut_and_the_page_needs_no_scrolling_sideways(page: Chrome, width: int, scheme: str) -> None:
    _resize(page, width)
    _prefer(page, scheme)
    page.refresh()
    assert _ask(page, "window.innerWidth") == width
    for opened in (False, True):
        page.execute_script(
            f"for (const each of document.querySelectorAll('details')) each.open = {str(opened).lower()}"
        )
        assert _ask(page, "document.documentElement.scrollWidth") <= width
        cut = "[...document.querySelectorAll('main *')].filter(each => !each.closest('svg, .scroll, pre') && "
        cut += "each.scrollWidth > each.clientWidth + 1 && each.clientWidth > 0)"
        assert _ask(page, f"{cut}.map(each => each.outerHTML.slice(0, 80))") == []
    assert not [entry for entry in page.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


@pytest.mark.parametrize("width", [390, 1280])
def test_tables_fit_without_scrolling(page: Chrome, width: int) -> None:
    _resize(page, width)
    page.refresh()
    page.execute_script("for (const each of document.querySelectorAll('details')) each.open = true")
    wide = (
        "[...document.querySelectorAll('.scroll:has(table)')].filter(each => each.scrollWidth > each.clientWidth + 1)"
    )
    assert _ask(page, f"{wide}.map(each => each.innerText.slice(0, 40))") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_enough_for_all_text(page: Chrome, scheme: str) -> None:
    """Every text against the nearest background: 4.5 to 1, as WCAG AA asks."""
    _prefer(page, scheme)
    page.refresh()
    page.execute_script("for (const each of document.querySelectorAll('details')) each.open = true")
    pairs = _ask(page, _TEXT_AND_BACKGROUND)
    assert len(pairs) > 3
    for front, back, words in pairs:
        light, dark = sorted((_luminance(front), _luminance(back)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (front, back, words)


# Distinct pairs of colours, each with a text that has it.
_TEXT_AND_BACKGROUND = """(() => {
  const found = new Map();
  const words = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (words.nextNode()) {
    const parent = words.currentNode.parentElement;
    if (!words.currentNode.textContent.trim() || parent.closest("script, style, .skip")) continue;
    const front = parent.closest("svg") ? getComputedStyle(parent).fill : getComputedStyle(parent).color;
    let back = parent;
    while (getComputedStyle(back).backgroundColor === "rgba(0, 0, 0, 0)") back = back.parentElement;
    const pair = [front, getComputedStyle(back).backgroundColor];
    found.set(pair.join(), [...pair, words.currentNode.textContent]);
  }
  return [...found.values()];
})()"""


def _luminance(colour: str) -> float:
    """Of ``rgb(1, 2, 3)``, as WCAG 2 defines it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_hostile_names_stay_text(page: Chrome) -> None:
    with pytest.raises(NoAlertPresentException):
        page.switch_to.alert  # noqa: B018 - looking is the test
    assert _ask(page, "document.querySelectorAll('[onerror], [src=x], main b').length") == 0
    words = page.find_element(By.TAG_NAME, "main").text
    assert _HOSTILE in words and "<b>own" in words
    label = _ask(page, "[...document.querySelectorAll('svg text')].map(text => text.textContent).join()")
    assert "<img src=x" in label and "&lt;" not in label
    assert _ask(page, "document.querySelectorAll('svg a, svg script').length") == 0


def test_colours_follow_the_reader(page: Chrome) -> None:
    def background() -> Any:
        return _ask(page, "getComputedStyle(document.body).backgroundColor")

    def text() -> Any:
        return _ask(page, "getComputedStyle(document.querySelector('.plot svg text')).fill")

    button = page.find_element(By.ID, "theme")
    assert (background(), button.text) == (_LIGHT, "Dark colours")
    light = text()
    _prefer(page, "dark")
    WebDriverWait(page, 10).until(lambda _: button.text == "Light colours")
    assert background() == _DARK and text() != light
    button.click()
    assert (background(), text(), button.text) == (_LIGHT, light, "Dark colours")


def test_file_is_small(address: str) -> None:
    assert Path(address.removeprefix("file://")).stat().st_size < 1.5e6
