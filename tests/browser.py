"""A page as headless Chromium shows it: colours, widths, contrast, messages of its console."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

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


@contextmanager
def chromium(profile: Path) -> Iterator[Chrome]:
    """A browser with an empty profile; the test is skipped where there is none."""
    pytest.importorskip("selenium", reason="selenium is not installed: pip install 'protoat[test]'")
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    programs = shutil.which("chromium"), shutil.which("chromedriver")
    if None in programs:
        pytest.skip("Chromium is absent: apt-get install chromium chromium-driver")
    options = ChromeOptions()
    options.binary_location = str(programs[0])
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=ChromeService(str(programs[1])))
    try:
        yield driver
    finally:
        driver.quit()


def prefer(page: Chrome, scheme: str) -> None:
    """Light or dark colours, as the system of a reader prefers them."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def resize(page: Chrome, width: int) -> None:
    """A window so many pixels wide."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def ask(page: Chrome, expression: str) -> Any:
    """The value of an expression of JavaScript."""
    return page.execute_script(f"return {expression}")


def complaints(page: Chrome) -> list[str]:
    """Errors and warnings of the console since the last look."""
    return [entry["message"] for entry in page.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def unfold(page: Chrome, opened: Literal["true", "false"] = "true") -> None:
    """Opens, or closes, all that can be folded."""
    page.execute_script(f"for (const each of document.querySelectorAll('details')) each.open = {opened}")


def check_contrast(page: Chrome) -> None:
    """Every text against the nearest background: 4.5 to 1, as WCAG AA asks."""
    pairs = ask(page, _TEXT_AND_BACKGROUND)
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
    if (!parent.checkVisibility({visibilityProperty: true})) continue;
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
