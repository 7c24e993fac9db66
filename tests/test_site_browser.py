"""The documentation site as a browser shows it: a small one of the theme, the style and the script of the real one."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser import ask, check_contrast, chromium, complaints, prefer, resize

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytest.importorskip("sphinx", reason="Sphinx is not installed: pip install 'protoat[docs]'")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of what Sphinx is built on

DOCS = Path(__file__).parents[1] / "docs"
INDEX = """\
# Small

```{toctree}
:caption: Guides

page
gallery
```

| a wide | table |
| --- | --- |
| of | %s |

```python
import small  # a comment

small.answer("text", 42)
```

```{eval-rst}
.. autofunction:: small.answer
```
""" % ("long words " * 40)
GALLERY = """\
# Gallery

```{raw} html
<div class="sphx-glr-thumbnails">
<div class="sphx-glr-thumbcontainer" tooltip="Runs an attack::">
<img alt="" src="data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7">
<p><a class="reference internal" href="page.html"><span>An example</span></a></p>
<div class="sphx-glr-thumbnail-title">An example</div>
</div></div>
```
"""
MODULE = '''
"""A module whose source is a page of the site."""

import math


@staticmethod
def answer(text: str, number: int = 42) -> float:
    """Says something."""
    # A comment, and one of each kind of token.
    found = [f"{text!r} {number:03d}", b"bytes", None, 0x2A, 1e-3, lambda x: x**2]
    if not found or number is None:
        raise ValueError("none")
    return math.sqrt(number)
'''


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from sphinx.application import Sphinx

    real = runpy.run_path(str(DOCS / "conf.py"))
    source = tmp_path_factory.mktemp("site")
    (source / "index.md").write_text(INDEX)
    (source / "page.md").write_text("# Page\n\n## Part\n\nWords, and `code`.\n")
    (source / "gallery.md").write_text(GALLERY)
    (source / "small.py").write_text(MODULE)
    taken = {key: value for key, value in real.items() if key.startswith(("html_", "pygments_"))}
    taken |= {"html_static_path": [str(DOCS / "_static")], "autodoc_mock_imports": []}
    extensions = [each for each in real["extensions"] if each not in ("myst_nb", "sphinx_gallery.gen_gallery")]
    settings = "import sys\nsys.path.insert(0, '.')\n"
    settings += "".join(
        f"{key} = {value!r}\n" for key, value in {**taken, "extensions": ["myst_parser", *extensions]}.items()
    )
    (source / "conf.py").write_text(settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(source)
        Sphinx(source, source, source / "html", source / "trees", "html", status=None, warningiserror=True).build()
    return source / "html"


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


PAGES = ["index.html", "page.html", "gallery.html", "search.html", "genindex.html", "_modules/small.html"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_every_page_can_be_read(chrome: Chrome, site: Path, name: str, scheme: str) -> None:
    assert (site / name).is_file()
    prefer(chrome, scheme)
    for width in (390, 1280):
        resize(chrome, width)
        chrome.get((site / name).as_uri())
        assert complaints(chrome) == []
        assert ask(chrome, "document.documentElement.scrollWidth") <= width
        check_contrast(chrome)


def test_the_script_names_what_the_theme_leaves_out(chrome: Chrome, site: Path) -> None:
    resize(chrome, 1280)
    chrome.get((site / "index.html").as_uri())
    assert ask(chrome, "[...document.querySelectorAll('pre, .table-wrapper')].map(each => each.tabIndex)") == [0, 0]
    assert ask(chrome, "document.querySelector('.caption[role=heading]').ariaLevel") == "2"
    assert ask(chrome, "document.querySelector('.sidebar-drawer').ariaLabel") == "Pages"
    chrome.get((site / "page.html").as_uri())
    assert ask(chrome, "document.querySelector('.toc-drawer').ariaLabel") == "On this page"
    chrome.get((site / "search.html").as_uri())
    assert ask(chrome, "[...document.querySelectorAll('h1')].map(each => each.textContent)") == ["Search"]
    chrome.get((site / "gallery.html").as_uri())
    box = "document.querySelector('.sphx-glr-thumbcontainer')"
    assert ask(chrome, f"{box}.getAttribute('tooltip')") == "Runs an attack"
    assert ask(chrome, f"{box}.querySelector('a').ariaLabel") == "An example"
    assert not chrome.find_element("css selector", ".sphx-glr-thumbcontainer img").is_displayed()
