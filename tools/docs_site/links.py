"""Links of the guides: on the site they lead to its pages, and where it has none only their text is left."""

from __future__ import annotations

import os.path
import re
from pathlib import Path, PurePosixPath

__all__ = ["PAGES", "in_site", "write_project_pages"]

# Files outside docs/ that have a page of their own on the site, from which folder docs/ is the root.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/reporting.md",
    "examples/README.md": "gallery/index.rst",
}
_LINK = re.compile(r"(!?)\[((?:[^\[\]`]|`[^`]*`)*)\]\(([^)\s]+)\)")


def in_site(text: str, file: str, page: str) -> str:
    """Markdown of a file of the repository, with the links that it needs as a page of the site.

    Args:
        text: Markdown.
        file: its path in the repository.
        page: its path below docs/.

    >>> in_site("[a](docs/audit.md#checks) [b](src) [c](https://x.org) [d](#e)", "README.md", "project/readme.md")
    '[a](../audit.md#checks) b [c](https://x.org) [d](#e)'
    """

    def moved(link: re.Match[str]) -> str:
        image, label, target = link.groups()
        path, _, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", target):
            return link.group()
        path = os.path.normpath(PurePosixPath(file).parent / path)
        goal = path.removeprefix("docs/") if path.startswith("docs/") else PAGES.get(path)
        if goal is None:
            return label
        goal = os.path.relpath(goal, PurePosixPath(page).parent)
        return f"{image}[{label}]({goal}{'#' + anchor if anchor else ''})"

    return _LINK.sub(moved, text)


def write_project_pages(root: Path) -> None:
    """Copies the files of `PAGES` that the site shows as they are into docs/project."""
    for file, page in PAGES.items():
        if page.startswith("project/"):
            goal = root / "docs" / page
            goal.parent.mkdir(exist_ok=True)
            text = in_site((root / file).read_text(), file, page)
            if not goal.exists() or goal.read_text() != text:
                goal.write_text(text)
