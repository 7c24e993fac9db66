"""A figure's file holds all it needs, and text stays text."""

from __future__ import annotations

import re
from pathlib import Path

from protoat.plots.curves import training_curves
from protoat.plots.page import page
from protoat.plots.style import label, names


def test_plotly_is_inside_once_and_nothing_is_fetched(ours: Path) -> None:
    figure = training_curves([ours])
    figure.data[0].name = label("</script><script>alert(1)</script>", longest=80)
    written = page("</title>", ["<i>"], [figure, figure])
    assert written.count("plotly.js v") == 1
    assert not re.search(r'<(script|link|img)[^>]*(src|href)="(?!data:)', written)
    assert "<script>alert" not in written and "<i>" not in written and "<title>&lt;/title&gt;</title>" in written


def test_names_are_short_and_distinct() -> None:
    assert names([Path("runs/a"), Path("runs/b")]) == ["a", "b"]
    assert names([Path("a/run"), Path("b/run"), Path("run")]) == ["a/run", "b/run", "run"]
    assert len(set(names([Path("x/y/run"), Path("z/y/run"), Path("/y/run")]))) == 3
