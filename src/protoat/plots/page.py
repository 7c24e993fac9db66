"""A figure as one HTML file that opens from disk: plotly and images are inside, nothing comes from a network."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["page"]

_STYLE = """
body { font-family: sans-serif; margin: 1rem auto; padding: 0 1rem; max-width: 75rem; background: #fff; color: #111 }
table { border-collapse: collapse; margin: 1rem 0 } caption { text-align: left; margin-bottom: .5rem }
th, td { border: 1px solid #ccc; padding: .3rem .5rem; text-align: left; vertical-align: middle }
figcaption { font-size: .8rem }
#shown { position: fixed; right: 1rem; bottom: 1rem; background: #fff; border: 1px solid #888; padding: .5rem;
  text-align: center; max-width: 12rem }
#shown img { width: 8rem; image-rendering: pixelated }
@media print { .modebar-container { display: none } }
"""
# The image of the point under the pointer; texts come with the escapes that plotly reads.
_SCRIPT = """
const plot = document.getElementById("{plot_id}");
plot.on("plotly_hover", ({points: [point]}) => {
  const uri = point.customdata;
  if (typeof uri !== "string" || !uri.startsWith("data:image/png;base64,")) return;
  const text = new DOMParser().parseFromString(point.hovertext || "", "text/html").body.textContent;
  const box = document.getElementById("shown");
  box.hidden = false;
  box.querySelector("img").src = uri;
  box.querySelector("img").alt = text;
  box.querySelector("span").textContent = text;
});
"""


def page(title: str, lines: Sequence[str], parts: Sequence[Figure | str]) -> str:
    """The file.

    Args:
        title: its heading.
        lines: paragraphs below it, such as budget and runs.
        parts: plotly figures, or HTML fragments in which outside text is escaped already.

    >>> page("<one>", ["a & b"], ["<p>fragment</p>"]).count("&lt;one&gt;")
    2
    """
    shown, has_plotly = [], False
    for part in parts:
        if isinstance(part, str):
            shown.append(part)
        else:
            script = part.to_html(full_html=False, include_plotlyjs=not has_plotly, post_script=_SCRIPT)
            shown.append(f"<section>{script}</section>")
            has_plotly = True
    head = html.escape(title[:1].upper() + title[1:])
    paragraphs = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{head}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body><main><h1>{head}</h1>{paragraphs}{''.join(shown)}</main>"
        '<aside id="shown" aria-live="polite" hidden><img alt=""><br><span></span></aside></body></html>\n'
    )
