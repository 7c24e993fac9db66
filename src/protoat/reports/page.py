"""Renders sections to one self-contained HTML file."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from protoat.reports.blocks import Block, Section

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["Chapter", "render"]

# What would end a script early, or be no JavaScript, is written as an escape; JSON holds such letters in strings only.
_IN_SCRIPT = {ord(letter): f"\\u{ord(letter):04x}" for letter in "<>&\u2028\u2029"}


class Chapter(NamedTuple):
    """A run, or the comparison of several; `name` becomes the address of the chapter."""

    name: str
    title: str
    sections: Sequence[Section]


def render(title: str, chapters: Sequence[Chapter], made: str) -> str:
    """The page; whatever text it holds is escaped, and it may load and run nothing but what it brings.

    Args:
        title: of the page.
        chapters: in order.
        made: by what and when, at its end.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("protoat.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["kind"] = _kind
    environment.filters["figure"] = lambda figure: Markup(_figure_json(figure))
    environment.filters["markup"] = Markup
    environment.filters["told"] = _told
    scripts = [_plotly(), _template_text("page.js")]
    return environment.get_template("page.html").render(
        title=title,
        chapters=chapters,
        made=made,
        style=Markup(_template_text("style.css")),
        scripts=[Markup(script) for script in scripts],
        policy=_policy(scripts),
    )


def _kind(block: Block) -> str:
    """The macro of the template that shows a block."""
    return type(block).__name__.lower()


def _template_text(name: str) -> str:
    from importlib.resources import files

    return (files("protoat.reports") / "templates" / name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def _policy(scripts: Sequence[str]) -> str:
    """Only these very scripts run, and nothing is fetched: what slips through escaping still does nothing."""
    hashes = [base64.b64encode(sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {allowed}"


def _figure_json(figure: Figure) -> str:
    """The figure as JSON within a script element; colours of text and background are the page's."""
    from plotly import graph_objects as go

    shown = go.Figure(figure)
    shown.update_layout(template=None, title=None, width=None)
    return str(shown.to_json()).translate(_IN_SCRIPT)


def _told(figure: Figure) -> str:
    """What the figure's own title says below its first line, such as how many images it is of.

    >>> from plotly import graph_objects as go
    >>> _told(go.Figure(layout={"title": {"text": "Map<br><sub>of &lt;b&gt;</sub><br><sub>10 images</sub>"}}))
    'of <b>; 10 images.'
    """
    _, *lines = (figure.layout.title.text or "").split("<br>")
    said = [html.unescape(re.sub(r"<[^>]*>", "", line)).strip() for line in lines]
    return "; ".join(filter(None, said)) + "." * bool(said)
