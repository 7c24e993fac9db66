"""Rows of images with captions, for a page, within which the images are written, and as a figure."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor

from protoat.plots.plot import Plot, styled
from protoat.plots.style import GRID, SOFT, TEXT, label

_WRONG = "#c0271c"


def _pixels(image: Tensor) -> Tensor:
    """(C, H, W) as (H, W) or (H, W, 3) uint8; one channel is grey, otherwise the first three are colours."""
    pixels = (image * 255).round().byte() if image.is_floating_point() else image
    return pixels[0] if len(pixels) < 3 else pixels[:3].permute(1, 2, 0).contiguous()


def data_uri(image: Tensor, *, longest: int = 96, quality: int = 85) -> str:
    """A ``data:`` address of an image: PNG where it is grey and small, WebP where it is not.

    Args:
        image: (C, H, W), floats in [0, 1] or uint8.
        longest: a larger image is shrunk until no side is longer, in pixels.
        quality: of WebP, up to 100.

    >>> import torch
    >>> data_uri(torch.zeros(1, 2, 2))[:30]
    'data:image/png;base64,iVBORw0K'
    """
    picture, buffer = Image.fromarray(_pixels(image).numpy()), io.BytesIO()
    picture.thumbnail((longest, longest))
    kind = "png" if picture.mode == "L" and max(picture.size) <= 64 else "webp"
    picture.save(buffer, kind, **({"optimize": True} if kind == "png" else {"quality": quality, "method": 4}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


class Picture(NamedTuple):
    """One image, or several that belong together, with words below.

    Attributes:
        images: (C, H, W) each.
        words: of each image, for those who do not see it.
        caption: below them.
        wrong: whether it is marked, by more than a colour.
    """

    images: Sequence[Tensor]
    words: Sequence[str]
    caption: str
    wrong: bool = False


class Row(NamedTuple):
    """Pictures side by side: what the row is, a note on it, and the pictures."""

    title: str
    note: str
    pictures: Sequence[Picture]


@dataclass(frozen=True, repr=False)
class Pictures:
    """Rows of pictures.

    Attributes:
        title: what they show.
        about: of which images, and how to read them.
        rows: from top to bottom.
    """

    title: str
    about: Sequence[str]
    rows: Sequence[Row]

    def __repr__(self) -> str:
        return f"Pictures({self.title!r}, {len(self.rows)} rows)"

    def _repr_png_(self) -> bytes:
        return self.plot()._repr_png_()

    @property
    def small(self) -> bool:
        """Whether each picture is a single image."""
        return all(len(picture.images) == 1 for row in self.rows for picture in row.pictures)

    @styled
    def plot(self) -> Plot:
        """The same as a figure."""
        from matplotlib.patches import Rectangle

        across = max(1, *(sum(len(picture.images) for picture in row.pictures) for row in self.rows))
        gaps = max(len(row.pictures) for row in self.rows)
        width, height, margin = across + 0.3 * gaps, 1.5, 2.6
        plot = Plot(self.title, self.about, size=(0.62 * (width + margin), 0.62 * height * len(self.rows)))
        axes = plot.subplots()
        for place, row in enumerate(self.rows):
            top, x = place * height, 0.0
            title, note = fill(label(row.title, longest=48), 26), fill(label(row.note, longest=90), 34)
            axes.text(-0.2, top + 0.46, title, ha="right", va="bottom", weight="bold", size=7)
            axes.text(-0.2, top + 0.52, note, ha="right", va="top", color=SOFT, size=6)
            for picture in row.pictures:
                length = len(picture.images)
                for turn, image in enumerate(picture.images):
                    extent = (x + turn, x + turn + 0.96, top + 0.96, top)
                    axes.imshow(_pixels(image).numpy(), extent=extent, cmap="gray", vmin=0, vmax=255)
                frame: dict[str, Any] = {
                    "edgecolor": _WRONG if picture.wrong else GRID,
                    "linestyle": "--" if picture.wrong else "-",
                }
                axes.add_patch(Rectangle((x - 0.02, top - 0.02), length, 1, fill=False, linewidth=1, **frame))
                words = f"{'✗ ' * picture.wrong}{label(picture.caption, longest=14 * length)}"
                colour = _WRONG if picture.wrong else TEXT
                axes.text(x + length / 2, top + 1.18, words, ha="center", va="center", size=6, color=colour)
                x += length + 0.3
        axes.set(xlim=(-margin, width), ylim=(height * len(self.rows), -0.1), aspect="equal")
        axes.set_axis_off()
        return plot
