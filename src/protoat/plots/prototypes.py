"""What became of the prototypes: how many are left, and which images lie nearest to each."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from protoat.errors import UserError
from protoat.evaluation.prototype_agreement import cosines
from protoat.functional.partitions import Agreement, crosstab
from protoat.functional.partitions import agreement as agreement_of
from protoat.plots.pictures import image_tag
from protoat.plots.style import SYMBOLS, colour, dash, heading, label, names
from protoat.plots.subject import Pictured
from protoat.runs.run import Run

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = [
    "agreement",
    "nearest_images",
    "prototype_counts",
    "prototype_names",
    "prototype_usage",
    "usage_over_time",
]

_MOST_LINES = 12
_PATTERNS = ("", "/", "\\", "x", "-", "|", "+", ".")


def prototype_counts(run: Path | str) -> Figure:
    """Prototypes of each class against epochs; of many classes the smallest, mean and largest number.

    Args:
        run: the folder, finished or not; weights are not needed.

    Raises:
        ValueError: a folder that is no run, or one without prototypes.
    """
    from plotly import graph_objects as go

    stored = Run(run)
    trace = stored.prototype_counts
    if not trace:
        raise UserError(f"{run} has no record of prototypes: it was not trained with SoftTriple, or for no epoch yet")
    epochs = [epoch for epoch, _ in trace]
    classes = stored.facts.get("class_names", [str(place) for place in range(len(trace[0][1]))])
    counts = [own for _, own in trace]
    lines: list[tuple[str, list[float]]] = [(label(name), [own[i] for own in counts]) for i, name in enumerate(classes)]
    if len(classes) > _MOST_LINES:
        lines = [
            ("largest of all classes", [max(own) for own in counts]),
            ("mean", [sum(own) / len(own) for own in counts]),
            ("smallest", [min(own) for own in counts]),
        ]
    figure = go.Figure(
        [
            go.Scatter(
                x=epochs,
                y=values,
                name=name,
                mode="lines+markers",
                line={"color": colour(place), "dash": dash(place), "shape": "hv"},
                marker={"symbol": SYMBOLS[place % len(SYMBOLS)], "size": 6},
            )
            for place, (name, values) in enumerate(lines)
        ]
    )
    figure.update_layout(
        **heading("Prototypes in use", f"{label(names([Path(run)])[0])}, {len(classes)} classes"),
        xaxis_title="epoch",
        yaxis={"title": "prototypes of a class", "rangemode": "tozero"},
        showlegend=True,
    )
    return figure


def prototype_usage(run: Path | str, *, images: int | None = None, pictured: Pictured | None = None) -> Figure:
    """How the test images of each class are shared out over its prototypes, by true mode, for the final weights.

    An image belongs to the nearest prototype of its own class, by cosine.

    Args:
        run: the folder, with weights and prototypes.
        images: test images, a share of each mode; None takes all.
        pictured: the same run where it has been loaded already.

    Raises:
        ValueError: see `Pictured`; a run without prototypes.
        DataNotFoundError: the test images are not there.
    """
    from plotly import graph_objects as go

    seen = pictured or Pictured(run, images)
    data, active, places = seen.data, seen.metric.active, seen.places
    totals = data.counts.clamp_min(1)
    owned = active.nonzero().tolist()
    bars = []
    for mode, name in enumerate(data.mode_names):
        chosen = data.modes == mode
        counts = crosstab(data.labels[chosen], places[chosen], (len(active), active.shape[1]))[active].tolist()
        share = [100 * count / int(totals[owner]) for count, (owner, _) in zip(counts, owned, strict=True)]
        bars.append(
            go.Bar(
                name=label(f"mode {name}"),
                x=list(range(len(owned))),
                y=share,
                customdata=counts,
                marker={"color": colour(mode), "pattern": {"shape": _PATTERNS[mode // 3 % 8], "fgopacity": 0.5}},
                hovertemplate=f"%{{x}}, {label(f'mode {name}')}: %{{customdata}} images, %{{y:.1f}} %<extra></extra>",
            )
        )
    figure = go.Figure(bars)
    about = f"{label(names([Path(run)])[0])}: {len(data)} test images, each at the nearest prototype of its class"
    figure.update_layout(
        barmode="stack",
        **heading("Usage of prototypes", about),
        yaxis_title="% of the images of the class",
        xaxis={
            "title": "class, prototype",
            "tickvals": list(range(len(owned))),
            "ticktext": prototype_names(data.class_names, owned),
            "automargin": True,
        },
    )
    return figure


def prototype_names(class_names: Sequence[str], owned: Iterable[Sequence[int]]) -> list[str]:
    """What stands at the ticks of an axis, escaped; the names of classes are cut, so two ticks may say the same.

    Args:
        class_names: of all classes.
        owned: class of each prototype, and its place there.

    >>> prototype_names(["cat", "german shepherd, young"], [(0, 2), (1, 0)])
    ['cat, 2', 'german shepherd, yo…, 0']
    """
    return [f"{label(class_names[owner], longest=20)}, {place}" for owner, place in owned]


def usage_over_time(run: Path | str) -> Figure:
    """Share of each prototype in the training examples of its class, since the last merge, against epochs.

    Args:
        run: the folder, finished or not; weights are not needed.

    Raises:
        ValueError: a folder that is no run, or in which no usage is recorded.
    """
    from plotly import graph_objects as go

    stored = Run(run)
    known = [(line.epoch, line.usage) for line in stored.metrics if line.usage is not None]
    if not known:
        raise UserError(f"{run} has no record of usage: it has no prototypes, or was trained by an earlier version")
    trace = [usage for _, usage in known]
    soft = any(line.in_use is None for line in stored.metrics if line.usage is not None)
    meaning = "soft assignment since the last merge" if soft else "images nearest to each in the epoch"
    places = [(owner, place) for owner, own in enumerate(trace[0]) for place in range(len(own))]
    used = [each for each in places if any(epoch[each[0]][each[1]] for epoch in trace)]
    classes = stored.facts.get("class_names", [str(owner) for owner in range(len(trace[0]))])
    figure = go.Figure(
        go.Heatmap(
            x=[epoch for epoch, _ in known],
            z=[[100 * epoch[owner][place] or None for epoch in trace] for owner, place in used],
            colorscale="Blues",
            zmin=0,
            zmax=100,
            colorbar={"title": "% of class"},
            hovertemplate="epoch %{x}, prototype %{y}<br>%{z:.1f} % of the examples of its class<extra></extra>",
        )
    )
    figure.update_layout(
        **heading(
            "Usage of prototypes in training",
            f"{label(names([Path(run)])[0])}: {meaning}; blank: not used",
        ),
        xaxis_title="epoch",
        yaxis={
            "title": "class, prototype",
            "tickvals": list(range(len(used))),
            "ticktext": prototype_names(classes, used),
            "automargin": True,
            "autorange": "reversed",
        },
        height=max(420, 160 + 20 * len(used)),
    )
    return figure


def agreement(run: Path | str, *, images: int | None = None, pictured: Pictured | None = None) -> dict[str, Agreement]:
    """How well the prototypes of each class agree with its true modes, by class name.

    Args:
        run, images, pictured: see `prototype_usage`.

    Raises:
        ValueError, DataNotFoundError: see `prototype_usage`.
    """
    seen = pictured or Pictured(run, images)
    own = {name: seen.data.labels == place for place, name in enumerate(seen.data.class_names)}
    return {
        name: agreement_of(seen.places[mask], seen.data.modes[mask]) for name, mask in own.items() if bool(mask.any())
    }


def nearest_images(
    run: Path | str, *, each: int = 8, images: int | None = None, pictured: Pictured | None = None
) -> str:
    """The test images that lie nearest to each prototype, of its own class or not, as an HTML fragment.

    Args:
        run, images, pictured: see `prototype_usage`.
        each: images for a prototype; those of another class are framed and say so.

    Raises:
        ValueError, DataNotFoundError: see `prototype_usage`.
    """
    seen = pictured or Pictured(run, images)
    if not 1 <= each <= len(seen.data):
        raise UserError(f"each={each} images are asked for, and there are {len(seen.data)}")
    metric = seen.metric
    nearness = cosines(seen.projected(seen.clean), metric.prototypes.detach(), metric.active)
    counts = crosstab(seen.data.labels, seen.places, (len(metric.active), metric.active.shape[1]))
    rows = []
    for owner, place in metric.active.nonzero().tolist():
        order = nearness[:, owner, place].argsort(descending=True, stable=True)[:each].tolist()
        cells = "".join(_picture(seen, index, owner) for index in order)
        title = html.escape(f"{seen.data.class_names[owner]}, prototype {place}")
        heading = f'<th scope="row">{title}<br><small>{int(counts[owner, place])} images</small></th>'
        rows.append(f"<tr>{heading}<td>{cells}</td></tr>")
    caption = f"{len(seen.data)} test images; a count is of images that are nearest to it among their own class"
    return (
        f'<div class="protoat-atlas" style="overflow-x:auto"><table><caption>Nearest images of each prototype: '
        f'{caption}</caption><thead><tr><th scope="col">prototype</th><th scope="col">nearest images, the nearest '
        f"first</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _picture(seen: Pictured, index: int, owner: int) -> str:
    data = seen.data
    mode, label_ = data.mode_names[int(data.modes[index])], int(data.labels[index])
    wrong = label_ != owner
    text = f"{data.class_names[label_]}, mode {mode}" + ", another class" * wrong
    frame = "outline:3px dashed #d00" if wrong else "outline:1px solid #8888"
    mark = "&#10007; " if wrong else ""
    return (
        f'<figure style="display:inline-block;margin:4px;text-align:center"><span style="display:inline-block;{frame}">'
        f"{image_tag(data.images[index], text)}</span><figcaption>{mark}{html.escape(mode)}</figcaption></figure>"
    )
