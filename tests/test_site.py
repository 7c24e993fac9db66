"""The documentation site: its reference is whole, links follow the files, and the check finds what is broken."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

import protoat
from tools.docs_site.check import broken_links
from tools.docs_site.links import in_site

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("text", "file", "page", "expected"),
    [
        ("[a](docs/audit.md#checks)", "CHANGELOG.md", "project/changelog.md", "[a](../audit.md#checks)"),
        ("[a](../SECURITY.md)", "docs/security.md", "security.md", "[a](project/reporting.md)"),
        ("[`x/`](../results), [b](#c)", "docs/results.md", "results.md", "`x/`, [b](#c)"),
        ("[a](../examples/README.md)", "docs/your-own.md", "your-own.md", "[a](gallery/index.rst)"),
        ("![a](map.png) [b](https://x.org/y.md)", "docs/r.md", "r.md", "![a](map.png) [b](https://x.org/y.md)"),
    ],
)
def test_links_of_a_file_lead_to_pages_of_the_site(text: str, file: str, page: str, expected: str) -> None:
    assert in_site(text, file, page) == expected


def test_what_is_broken_is_found(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "other.html").write_text('<h1 id="here">x</h1><a href="../page.html">up</a>')
    right = '<a href="sub/other.html#here"><a href="#top"><a href="https://x.org"><img src="data:image/png;base64,AA">'
    wrong = {
        '<a href="gone.html">': "gone.html is not there",
        '<a href="sub/other.html#away">': "sub/other.html#away: other.html has no such place",
        '<a href="#below">': "#below: page.html has no such place",
        '<img src="gone.png">': "gone.png is not there",
        '<script src="https://cdn.org/x.js"></script>': "loads https://cdn.org/x.js from elsewhere",
        '<link href="//fonts.org/x.css">': "loads //fonts.org/x.css from elsewhere",
    }
    (tmp_path / "page.html").write_text('<p id="top">' + right)
    assert broken_links(tmp_path) == []
    (tmp_path / "page.html").write_text('<p id="top">' + right + "".join(wrong))
    assert broken_links(tmp_path) == [f"page.html: {fault}" for fault in wrong.values()]


def test_the_reference_holds_every_public_name(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="Sphinx is not installed: pip install 'protoat[docs]'")
    from tools.docs_site.reference import write_reference

    (tmp_path / "gone.rst").write_text("of a part that is no more")
    write_reference(tmp_path)
    pages = {page.stem: page.read_text() for page in tmp_path.glob("*.rst")}
    entries = re.findall(r"^\.\. (?:autoclass|autofunction|data):: (\w+)$", "\n".join(pages.values()), re.MULTILINE)
    assert sorted(entries) == sorted(set(protoat.__all__) - {"__version__", *protoat._PACKAGES})
    assert ".. automodule:: protoat.functional.norms" in pages["functional"]
    assert set(re.findall(r"^   (\w+)$", pages["index"], re.MULTILINE)) == pages.keys() - {"index"}


def test_what_the_page_of_the_paper_says_of_us_stands_in_the_results() -> None:
    results = (ROOT / "docs" / "results.md").read_text().replace("\\[", "[").replace("\\]", "]")
    ours = re.findall(r"\[[\d.]+, [\d.]+\]", (ROOT / "docs" / "paper.md").read_text())
    assert len(ours) > 10 and [interval for interval in ours if interval not in results] == []


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == protoat.__version__
    assert citation["references"][0]["doi"] in (ROOT / "README.md").read_text()


def test_the_reference_says_what_an_attack_takes() -> None:
    pytest.importorskip("sphinx", reason="Sphinx is not installed: pip install 'protoat[docs]'")
    from tools.docs_site.reference import constructor

    assert constructor(protoat.CornerNoise) == "(threat, *, draws=100, batch_size=256, bn='eval', seed=0)"
    assert constructor(protoat.Targeted) == "(attack, rule)"
