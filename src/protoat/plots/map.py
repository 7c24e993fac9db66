"""The paper's Figure 1: embeddings in two dimensions, with attacked images placed among the clean ones."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from protoat.data import ImageData
from protoat.errors import UserError
from protoat.evaluation import Count
from protoat.evaluation.embedding import Embedded
from protoat.plots.pictures import data_uri
from protoat.plots.plot import Plot, Point, styled
from protoat.plots.style import colour, label, shown
from protoat.plots.subject import Pictured, Seen, grouped_by, in_words, said

if TYPE_CHECKING:
    from matplotlib.axes import Axes

logger = logging.getLogger(__name__)

_PERPLEXITY = 30
_MOST_MODES = 20
_THUMBNAIL = {"longest": 40, "quality": 60}  # small, as a map has hundreds
_GREY = "#7f7f7f"


class _Sign(NamedTuple):
    """How images are drawn: marker, its area in square points, and whether it is filled."""

    marker: str
    area: int
    filled: bool


# By kind, and whether the image is classified right.
_SIGNS = {
    ("clean", True): _Sign("o", 14, True),
    ("clean", False): _Sign("v", 30, True),
    ("attacked", True): _Sign("o", 14, False),
    ("attacked", False): _Sign("^", 30, True),
}


def place(clean: Tensor, others: Tensor, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Positions in the plane, (N, 2) of clean embeddings and (M, 2) of others, which have no influence on the former.

    t-SNE of the unit vectors is fitted on the clean embeddings; the others are put among them, each on its own.

    Args:
        clean: (N, D), at least 8.
        others: (M, D).
        seed: of everything random.

    Raises:
        ValueError: too few clean embeddings.

    Source: Poličar et al., openTSNE, JSS 2024; embedding new points into a fixed map, sections 2.3 and 4.
    """
    from openTSNE import TSNE

    if len(clean) < 8:
        raise UserError(f"a map needs at least 8 images, and there are {len(clean)}")
    known, new = (F.normalize(part.double(), dim=1).numpy() for part in (clean, others))
    perplexity = min(_PERPLEXITY, (len(clean) - 1) // 3)
    fitted = TSNE(
        perplexity=perplexity, initialization="pca", neighbors="exact", negative_gradient_method="bh", random_state=seed
    ).fit(known)
    near = min(5, perplexity)
    placed = fitted.transform(new, perplexity=near, k=min(25, len(clean))) if len(new) else new[:, :2]
    return torch.tensor(fitted.tolist(), dtype=torch.float64), torch.tensor(placed.tolist(), dtype=torch.float64)


@styled
def embedding_map(
    run: Seen,
    *,
    images: int | None = 1000,
    attack: str = "pgd10",
    classes: Sequence[str] | None = None,
    most: int | None = None,
    seed: int = 0,
) -> Plot:
    """A map of clean embeddings with the attacked images on it: colour is the mode, a triangle is misclassified.

    Its `points` are the images, each with its class, mode and prediction in words.

    Args:
        run: with weights.
        images: test images, a share of each mode; None takes all.
        attack: name as for ``protoat evaluate``.
        classes: show these only, as the paper's figure does; default all.
        most: of the images of a `Pictured` draw this many, a share of each mode; None draws all.
        seed: of the map.

    Raises:
        ValueError: see `Pictured`; an unknown attack or class; a model without embeddings.
        DataNotFoundError: the test images are not there.
    """
    seen = Pictured.of(run, images, classes=classes)
    data, clean, attacked = seen.data, seen.clean, seen.attacked(attack)
    if most is not None and most < len(data):
        data = data.subset(torch.arange(most))
        clean, attacked = (Embedded(*(part[:most] for part in each)) for each in (clean, attacked))
    logger.info("%s: arranging %d points, which takes a while", seen.called, 2 * len(data))
    positions = place(clean.embedding, attacked.embedding, seed=seed)
    right = [Count(int((part.predicted == data.labels).sum()), len(data)) for part in (clean, attacked)]
    threat = seen.threat(attack)
    plot = Plot(
        f"Map of embeddings: {seen.name}",
        [
            f"t-SNE of {len(data)} clean test images; the same under {label(attack)} ({threat.norm}, eps "
            f"{threat.eps:.4g}) are placed on it and do not shape it",
            f"right: clean {shown(right[0])}; attacked {shown(right[1])}",
        ],
        size=(5.6, 5.4),
    )
    axes = plot.subplots()
    modes = data.modes.unique().tolist()
    seen_as = {"clean": (clean, positions[0]), "attacked": (attacked, positions[1])}
    for mode in modes:
        for (kind, right_only), sign in _SIGNS.items():
            embedded, position = seen_as[kind]
            rows = ((data.modes == mode) & ((embedded.predicted == data.labels) == right_only)).nonzero()[:, 0].tolist()
            if rows:
                _draw(axes, position[rows], sign, colour(mode), gid=f"points-{len(plot.points)}")
                plot.points += [_point(data, kind, embedded, row) for row in rows]
    _say_signs(
        axes, [(grouped_by(data) + " " + label(data.mode_names[mode], longest=20), colour(mode)) for mode in modes]
    )
    axes.set_axis_off()
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.02)
    return plot


def _draw(axes: Axes, position: Tensor, sign: _Sign, own: str, **more: str) -> None:
    """Points at (M, 2) positions."""
    x, y = position.T.tolist()
    face = own if sign.filled else "none"
    style: dict[str, Any] = {"facecolors": face, "edgecolors": own, "linewidths": 0.8, "alpha": 0.75, **more}
    axes.scatter(x, y, sign.area, marker=sign.marker, **style)


def _say_signs(axes: Axes, modes: Sequence[tuple[str, str]]) -> None:
    """Beside the map, what signs and colours mean; not of so many modes that colours repeat."""
    nowhere = torch.zeros(0, 2)
    for (kind, right), sign in _SIGNS.items():
        _draw(axes, nowhere, sign, _GREY, label=f"{kind}, {'right' if right else 'misclassified'}")
    for name, own in modes if len(modes) <= _MOST_MODES else ():
        _draw(axes, nowhere, _Sign("s", 20, True), own, label=name)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=3, borderaxespad=0)


def _point(data: ImageData, kind: str, embedded: Embedded, row: int) -> Point:
    predicted = said(data, embedded.predicted[row])
    verdict = f"right: {predicted}" if embedded.predicted[row] == data.labels[row] else f"taken for {predicted}"
    words = f"{kind}, class {in_words(data, row)}, {verdict}"
    return Point(data_uri(embedded.images[row], **_THUMBNAIL), words)
