"""Checks the links of the built site, without a network: ``python -m tools.docs_site.check docs/_build/html``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = ["broken_links"]

_LINKS = {"a": "href", "img": "src", "script": "src", "link": "href", "source": "src", "iframe": "src"}


class _Page(HTMLParser):
    """The links of a page, each with its element, and the places that links to it may name."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: list[tuple[str, str]] = []
        self.places: set[str] = set()
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if place := given.get("id"):
            self.places.add(place)
        if link := given.get(_LINKS.get(tag, "")):
            self.links.append((tag, link))


def broken_links(site: Path) -> list[str]:
    """One line for each link to a page, a place of a page or a file that the site lacks, or a part from elsewhere.

    Links that a reader may follow out of the site are left alone; what a page loads by itself must be of the site.
    """
    read = cache(_Page)
    pages = sorted(site.rglob("*.html"))
    return [f"{page.relative_to(site)}: {fault}" for page in pages for fault in _faults(page.resolve(), read)]


def _faults(page: Path, read: Callable[[Path], _Page]) -> Iterator[str]:
    for tag, link in read(page).links:
        url = urlsplit(link)
        if url.scheme or url.netloc:
            if tag != "a" and url.scheme != "data":
                yield f"loads {link} from elsewhere"
            continue
        goal = (page.parent / unquote(url.path)).resolve() if url.path else page
        if not goal.is_file():
            yield f"{link} is not there"
        elif url.fragment and goal.suffix == ".html" and unquote(url.fragment) not in read(goal).places:
            yield f"{link}: {goal.name} has no such place"


def main() -> int:
    """Prints what is broken; 1 if anything is."""
    site = Path(sys.argv[1])
    pages = sum(1 for _ in site.rglob("*.html"))
    faults = broken_links(site) if pages else [f"{site} holds no page"]
    print("\n".join(faults) or f"{pages} pages: every link leads somewhere")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
