"""Heat maps of prototypes against modes, and of images before against after an attack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from protoat.evaluation.embedding import Embedded
from protoat.evaluation.prototype_agreement import cosines
from protoat.evaluation.retrieval import nearest_neighbours
from protoat.functional.partitions import crosstab
from protoat.plots.prototypes import agreement, prototype_names
from protoat.plots.style import heading, label, names
from protoat.plots.subject import Pictured
from protoat.regularizers import SoftTriple

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["agreement_map", "transitions"]


def agreement_map(run: Path | str, *, images: int | None = None, pictured: Pictured | None = None) -> Figure:
    """Which modes the images of each prototype are of, with NMI and purity of each class.

    Args:
        run, images, pictured: see `protoat.plots.prototypes.prototype_usage`.

    Raises:
        ValueError, DataNotFoundError: see there.
    """
    seen = pictured or Pictured(run, images)
    active = seen.metric.active
    position = active.flatten().cumsum(0) - 1
    rows = position[seen.data.labels * active.shape[1] + seen.places]
    table = crosstab(rows, seen.data.modes, (int(active.sum()), len(seen.data.mode_names)))
    found = agreement(run, pictured=seen)
    lines = [
        f"{label(name)}: NMI {own.nmi:.2f}; purity {own.purity:.2f}, with one prototype {own.chance:.2f}; {own.images} "
        f"images, {own.prototypes} prototypes used, {own.modes} modes"
        for name, own in list(found.items())[:4]
    ]
    if len(found) > len(lines):
        nmi, purity = (sum(own[entry] for own in found.values()) / len(found) for entry in (0, 1))
        lines = [f"{len(found)} classes; mean NMI {nmi:.2f}; mean purity {purity:.2f}"]
    title = f"Prototypes and modes: {label(names([Path(run)])[0])}"
    about = f"{len(seen.data)} test images, each at the nearest prototype of its own class"
    return _heat_map(table, _prototypes(seen), _modes(seen), ("prototype", "true mode"), heading(title, about, *lines))


def transitions(run: Path | str, *, images: int | None = 1000, attack: str = "pgd10") -> Figure:
    """Where attacked images go: from the prototype nearest to the clean image to the one nearest to the attacked image.

    Prototypes of all classes count. Of a run without prototypes, from the true mode to the mode of the clean image that
    is nearest to the attacked one, itself left out.

    Args:
        run: the folder, with weights.
        images: test images, a share of each mode; None takes all.
        attack: name as for ``protoat evaluate``.

    Raises:
        ValueError: see `Pictured`; an unknown attack.
        DataNotFoundError: the test images are not there.
    """
    seen = Pictured(run, images)
    attacked = seen.attacked(attack)
    if isinstance(seen.subject.regularizer, SoftTriple):
        places, what = _prototypes(seen), "nearest prototype"
        before, after = _nearest_prototype(seen, seen.clean), _nearest_prototype(seen, attacked)
    else:
        places, what = _modes(seen), "mode"
        own = torch.arange(len(seen.data))
        near = nearest_neighbours(attacked.embedding, seen.clean.embedding, 1, excluded=own)[:, 0]
        before, after = seen.data.modes, seen.data.modes[near]
    table = crosstab(before, after, (len(places), len(places)))
    stays = int(table.diagonal().sum())
    threat = seen.subject.threat
    title = heading(
        f"Where attacked images go: {label(names([Path(run)])[0])}",
        f"{len(seen.data)} test images, {label(attack)}, {threat.norm}, eps {threat.eps:.4g}; {stays} stay",
    )
    to = "nearest prototype, attacked" if what != "mode" else "mode of the nearest clean image, attacked"
    return _heat_map(table, places, places, (f"{what}, clean", to), title)


def _nearest_prototype(seen: Pictured, embedded: Embedded) -> Tensor:
    """Of all classes: (M,) int64 into the prototypes in use."""
    metric = seen.metric
    return cosines(seen.projected(embedded), metric.prototypes.detach(), metric.active)[:, metric.active].argmax(1)


def _prototypes(seen: Pictured) -> list[str]:
    return prototype_names(seen.data.class_names, seen.metric.active.nonzero().tolist())


def _modes(seen: Pictured) -> list[str]:
    return [label(name, longest=20) for name in seen.data.mode_names]


def _heat_map(
    table: Tensor, rows: Sequence[str], columns: Sequence[str], axes: tuple[str, str], title: dict[str, Any]
) -> Figure:
    """Counts with their numbers in the cells where there is room; colour is the share of the row; names are escaped."""
    from plotly import graph_objects as go

    share = table.double() / table.sum(1, keepdim=True).clamp_min(1)
    figure = go.Figure(
        go.Heatmap(
            z=(100 * share).tolist(),
            text=table.tolist(),
            texttemplate="%{text}" if table.numel() <= 400 else None,
            hovertemplate=f"{axes[0]} %{{y}}<br>{axes[1]} %{{x}}<br>%{{text}} images, %{{z:.1f}} % of the row"
            "<extra></extra>",
            colorscale="Blues",
            zmin=0,
            zmax=100,
            colorbar={"title": "% of row"},
        )
    )
    for axis, words, own in ((figure.layout.yaxis, axes[0], rows), (figure.layout.xaxis, axes[1], columns)):
        axis.update(title=words, tickvals=list(range(len(own))), ticktext=list(own), automargin=True)
    figure.layout.yaxis.autorange = "reversed"
    figure.update_layout(**title, height=max(420, 200 + 26 * len(rows)))
    return figure
