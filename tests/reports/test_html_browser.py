"""The report as a browser shows it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from protoat.cli import main
from protoat.reports.html import report
from tests.browser import ask, check_contrast, chromium, complaints, prefer, resize, unfold
from tests.reports.pages import SECTIONS

pytest.importorskip("selenium", reason="selenium is not installed: pip install 'protoat[test]'")

from selenium.common.exceptions import NoAlertPresentException
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

pytestmark = pytest.mark.slow

_HOSTILE = "<img src=x onerror=alert(1)>"
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
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def page(chrome: Chrome, address: str) -> Chrome:
    """The report, freshly opened in a window of a desktop that prefers light colours."""
    prefer(chrome, "light")
    resize(chrome, 1200)
    chrome.get(address)
    return chrome


def _map(page: Chrome) -> WebElement:
    """The map of the run with hostile names."""
    return page.find_element(By.CSS_SELECTOR, "section[aria-labelledby~=run-1-map] figure.mapped")


def test_every_section_and_chart_is_there_without_errors(page: Chrome) -> None:
    assert complaints(page) == []
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
    resize(page, width)
    prefer(page, scheme)
    page.refresh()
    assert ask(page, "window.innerWidth") == width
    for opened in ("false", "true"):
        unfold(page, opened)
        assert ask(page, "document.documentElement.scrollWidth") <= width
        cut = "[...document.querySelectorAll('main *')].filter(each => !each.closest('svg, .scroll, pre') && "
        cut += "each.scrollWidth > each.clientWidth + 1 && each.clientWidth > 0)"
        assert ask(page, f"{cut}.map(each => each.outerHTML.slice(0, 80))") == []
    assert complaints(page) == []


@pytest.mark.parametrize("width", [390, 1280])
def test_tables_fit_without_scrolling(page: Chrome, width: int) -> None:
    resize(page, width)
    page.refresh()
    unfold(page)
    wide = (
        "[...document.querySelectorAll('.scroll:has(table)')].filter(each => each.scrollWidth > each.clientWidth + 1)"
    )
    assert ask(page, f"{wide}.map(each => each.innerText.slice(0, 40))") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_enough_for_all_text(page: Chrome, scheme: str) -> None:
    prefer(page, scheme)
    page.refresh()
    unfold(page)
    check_contrast(page)


def test_a_command_is_copied_or_at_least_selected(page: Chrome) -> None:
    button = page.find_element(By.CSS_SELECTOR, "button[data-copy]")
    code = ask(page, "document.querySelector('button[data-copy]').parentElement.querySelector('code').textContent")
    page.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", button)
    for granted, said in (("granted", "Copied"), ("denied", "Selected")):
        permission = {"permission": {"name": "clipboard-write"}, "setting": granted}
        page.execute_cdp_cmd("Browser.setPermission", permission)
        button.click()
        WebDriverWait(page, 10).until(lambda _, said=said: button.text == said)
    assert "protoat" in code and ask(page, "getSelection().toString().trim()") == code.strip()


def test_contents_are_folded_where_they_would_fill_a_narrow_screen(page: Chrome) -> None:
    opened = "[...document.querySelectorAll('nav details')].map(each => each.open)"
    assert ask(page, opened) == [True, False, False]
    resize(page, 390)
    page.refresh()
    assert ask(page, opened) == [False, False, False]


def test_hostile_names_stay_text(page: Chrome) -> None:
    with pytest.raises(NoAlertPresentException):
        page.switch_to.alert  # noqa: B018 - looking is the test
    assert ask(page, "document.querySelectorAll('[onerror], [src=x], main b').length") == 0
    words = page.find_element(By.TAG_NAME, "main").text
    assert _HOSTILE in words and "<b>own" in words
    label = ask(page, "[...document.querySelectorAll('svg text')].map(text => text.textContent).join()")
    assert "<img src=x" in label and "&lt;" not in label
    assert ask(page, "document.querySelectorAll('svg a, svg script').length") == 0


def test_colours_follow_the_reader(page: Chrome) -> None:
    def background() -> Any:
        return ask(page, "getComputedStyle(document.body).backgroundColor")

    def text() -> Any:
        return ask(page, "getComputedStyle(document.querySelector('.plot svg text')).fill")

    button = page.find_element(By.ID, "theme")
    assert (background(), button.text) == (_LIGHT, "Dark colours")
    light = text()
    prefer(page, "dark")
    WebDriverWait(page, 10).until(lambda _: button.text == "Light colours")
    assert background() == _DARK and text() != light
    button.click()
    assert (background(), text(), button.text) == (_LIGHT, light, "Dark colours")


def test_file_is_small(address: str) -> None:
    assert Path(address.removeprefix("file://")).stat().st_size < 1.5e6
