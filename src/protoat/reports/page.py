"""Renders sections to one self-contained HTML file."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple

from protoat.evaluation import Count
from protoat.plots.pictures import data_uri
from protoat.reports.blocks import Section

# What would end a script early, or be no JavaScript, is written as an escape; JSON holds such letters in strings only.
_IN_SCRIPT = {ord(letter): f"\\u{ord(letter):04x}" for letter in "<>&\u2028\u2029"}


class Chapter(NamedTuple):
    """A run, or the comparison of several; `name` becomes the address of the chapter."""

    name: str
    title: str
    sections: Sequence[Section]


def render(title: str, chapters: Sequence[Chapter], made: Sequence[str]) -> str:
    """The page; whatever text it holds is escaped, and it may load and run nothing but what it brings.

    Args:
        title: of the page.
        chapters: in order.
        made: by what, when and from what, at its end.
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
    environment.filters["kind"] = lambda block: type(block).__name__.lower()  # the macro that shows it
    environment.filters["data_uri"] = data_uri
    environment.filters["json"] = lambda value: Markup(json.dumps(value).translate(_IN_SCRIPT))
    environment.filters["markup"] = Markup
    environment.tests["accuracy"] = lambda cell: isinstance(cell, Count)
    script = _template_text("page.js")
    # Only this very script runs, and nothing is fetched: what slips through escaping still does nothing.
    digest = base64.b64encode(sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return environment.get_template("page.html").render(
        title=title,
        chapters=chapters,
        made=made,
        style=Markup(_template_text("style.css")),
        script=Markup(script),
        policy=policy,
    )


def _template_text(name: str) -> str:
    from importlib.resources import files

    return (files("protoat.reports") / "templates" / name).read_text(encoding="utf-8")
