"""Text in hand-made drawings stays within its box, in the widest of the usual fonts."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

SVG = "{http://www.w3.org/2000/svg}"
DRAWINGS = [Path(__file__).parents[1] / "docs/overview.svg"]


@pytest.mark.parametrize("path", DRAWINGS, ids=lambda path: path.name)
def test_text_is_within_its_box(path: Path) -> None:
    root = ElementTree.parse(path).getroot()
    boxes = [
        [float(box.get(key, 0)) for key in ("x", "y", "width", "height")]
        for group in root
        for box in group.iter(f"{SVG}rect")
    ]
    inside = 0
    for text in root.iter(f"{SVG}text"):
        x, y, size = (
            float(text.get("x", 0)),
            float(text.get("y", 0)),
            float(text.get("font-size", root.get("font-size", 0))),
        )
        half = TextPath((0, 0), text.text, size, prop=FontProperties("DejaVu Sans")).get_extents().width / 2
        for left, top, width, height in boxes:
            if left < x < left + width and top < y < top + height and (width, height) != (860, 250):
                inside += 1
                assert left + 4 <= x - half and x + half <= left + width - 4, text.text
                assert y + 0.25 * size <= top + height - 2, text.text
    assert inside >= 10
