"""The paper's Figure 1: embeddings in two dimensions, with attacked images placed among the clean ones."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from protoat.data import ImageData
from protoat.errors import UserError
from protoat.evaluation import Count
from protoat.evaluation.embedding import Embedded
from protoat.plots.pictures import data_uri
from protoat.plots.style import colour, heading, label, names, shown
from protoat.plots.subject import Pictured, said

if TYPE_CHECKING:
    from plotly.graph_objects import Figure, Scatter

__all__ = ["embedding_map", "place"]

logger = logging.getLogger(__name__)

_PERPLEXITY = 30
_MOST_MODES = 20
# Of clean and of attacked images, each wrong and right.
_SYMBOLS = {"clean": ("triangle-down", "circle"), "attacked": ("triangle-up", "circle-open")}


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


def embedding_map(
    run: Path | str,
    *,
    images: int | None = 1000,
    attack: str = "pgd10",
    classes: Sequence[str] | None = None,
    seed: int = 0,
) -> Figure:
    """A map of clean embeddings with the attacked images on it: colour is the mode, a triangle is misclassified.

    ``customdata`` of each point is its image as a ``data:`` address, ``hovertext`` says what it is.

    Args:
        run: the folder, with weights.
        images: test images, a share of each mode; None takes all.
        attack: name as for ``protoat evaluate``.
        classes: show these only, as the paper's figure does; default all.
        seed: of the map.

    Raises:
        ValueError: see `Pictured`; an unknown attack or class; a model without embeddings.
        DataNotFoundError: the test images are not there.
    """
    from plotly import graph_objects as go

    seen = Pictured(run, images, classes=None if classes is None else tuple(classes))
    data, clean, attacked = seen.data, seen.clean, seen.attacked(attack)
    logger.info("%s: arranging %d points, which takes a while", run, 2 * len(data))
    positions = dict(zip(_SYMBOLS, place(clean.embedding, attacked.embedding, seed=seed), strict=True))
    modes = data.modes.unique().tolist()
    figure = go.Figure(_legend([mode for mode in modes if len(modes) <= _MOST_MODES], data.mode_names))
    for mode in modes:
        for kind, embedded in (("clean", clean), ("attacked", attacked)):
            figure.add_trace(_points(data, mode, kind, embedded, positions[kind]))
    right = [Count(int((part.predicted == data.labels).sum()), len(data)) for part in (clean, attacked)]
    threat = seen.subject.threat
    figure.update_layout(
        **heading(
            f"Map of embeddings: {label(names([Path(run)])[0])}",
            f"t-SNE of {len(data)} clean test images; the same under {label(attack)} ({threat.norm}, eps "
            f"{threat.eps:.4g}) are placed on it and do not shape it",
            f"right: clean {shown(right[0])}; attacked {shown(right[1])}",
        ),
        height=680,
        legend={"groupclick": "togglegroup", "itemsizing": "constant"},
    )
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False, scaleanchor="x")
    return figure


def _points(data: ImageData, mode: int, kind: str, embedded: Embedded, position: Tensor) -> Scatter:
    from plotly import graph_objects as go

    rows = (data.modes == mode).nonzero()[:, 0].tolist()
    right = (embedded.predicted == data.labels).int().tolist()
    name = label(data.mode_names[mode])
    texts = []
    for row in rows:
        own = label(data.class_names[int(data.labels[row])])
        predicted = label(said(data, embedded.predicted[row]))
        verdict = f"right: {predicted}" if right[row] else f"taken for {predicted}"
        texts.append(f"{kind}, class {own}, mode {name}, {verdict}")
    return go.Scatter(
        x=position[rows, 0].tolist(),
        y=position[rows, 1].tolist(),
        mode="markers",
        name=f"mode {name}",
        legendgroup=f"mode {mode}",
        showlegend=False,
        marker={
            "color": colour(mode),
            "symbol": [_SYMBOLS[kind][right[row]] for row in rows],
            "size": [6 if right[row] else 9 for row in rows],
            "opacity": 0.75,
        },
        hovertext=texts,
        hoverinfo="text",
        customdata=[data_uri(embedded.images[row]) for row in rows],
    )


def _legend(modes: Sequence[int], mode_names: Sequence[str]) -> list[Scatter]:
    """What symbols and colours mean, as entries of the legend without points; that of a mode hides and shows it."""
    from plotly import graph_objects as go

    meanings = [
        (f"{kind}, {'right' if right else 'misclassified'}", f"{kind} {right}", "#7f7f7f", symbols[right])
        for kind, symbols in _SYMBOLS.items()
        for right in (1, 0)
    ]
    meanings += [(f"mode {label(mode_names[mode])}", f"mode {mode}", colour(mode), "square") for mode in modes]
    return [
        go.Scatter(
            x=[None],
            y=[None],
            mode="markers",
            name=name,
            legendgroup=group,
            marker={"color": own, "symbol": symbol, "size": 9},
            hoverinfo="skip",
        )
        for name, group, own, symbol in meanings
    ]
