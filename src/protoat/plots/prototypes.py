"""Plots of prototypes: counts and usage over training, and the images nearest to each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from protoat.errors import UserError
from protoat.functional.partitions import Agreement, crosstab
from protoat.functional.partitions import agreement as agreement_of
from protoat.plots.heat_map import heat_map
from protoat.plots.pictures import Picture, Pictures, Row
from protoat.plots.plot import Plot, styled
from protoat.plots.style import bar, colour, dash, label, labels, legend, marker, name_places
from protoat.plots.subject import Pictured, Seen, grouped_by, in_words, mode_name
from protoat.runs.claims import called
from protoat.runs.run import Run

_MOST_LINES = 12


@styled
def prototype_counts(run: Run | Path | str) -> Plot:
    """Prototypes of each class against epochs; of many classes the smallest, mean and largest number.

    Args:
        run: finished or not; weights are not needed.

    Raises:
        ValueError: a folder that is no run, or one without prototypes.
    """
    stored = run if isinstance(run, Run) else Run(run)
    trace = stored.prototype_counts
    if not trace:
        raise UserError(
            f"{called(stored.path)} has no record of prototypes: trained without SoftTriple, or for no epoch yet"
        )
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
    plot = Plot("Prototypes in use", [f"{labels([stored.path])[0]}, {len(classes)} classes"])
    axes = plot.subplots()
    for place, (name, values) in enumerate(lines):
        style: dict[str, Any] = {
            "color": colour(place),
            "marker": marker(place),
            "markersize": 4,
            "drawstyle": "steps-post",
        }
        axes.plot(epochs, values, dash(place), label=name, **style)
    axes.set(xlabel="epoch", ylabel="prototypes of a class", ylim=(0, None))
    axes.grid(axis="y")
    legend(axes)
    return plot


@styled
def prototype_usage(run: Seen, *, images: int | None = None) -> Plot:
    """How the test images of each class are shared out over its prototypes, by true mode, for the final weights.

    An image belongs to the nearest prototype of its own class, by cosine.

    Args:
        run: with weights and prototypes.
        images: test images, a share of each mode; None takes all.

    Raises:
        ValueError: see `Pictured`; a run without prototypes.
        DataNotFoundError: the test images are not there.
    """
    seen = Pictured.of(run, images)
    data, active, places = seen.data, seen.metric.active, seen.places
    totals = data.counts.clamp_min(1)
    owned = active.nonzero().tolist()
    about = f"{seen.name}: {len(data)} test images, each at the nearest prototype of its class"
    plot = Plot("Usage of prototypes", [about], size=(max(5.0, 1.5 + 0.28 * len(owned)), 3.6))
    axes, bottom = plot.subplots(), [0.0] * len(owned)
    for mode, name in enumerate(data.mode_names):
        chosen = data.modes == mode
        counts = crosstab(data.labels[chosen], places[chosen], (len(active), active.shape[1]))[active].tolist()
        share = [100 * count / int(totals[owner]) for count, (owner, _) in zip(counts, owned, strict=True)]
        filled = [place for place, own in enumerate(share) if own]  # a bar of no height takes room in a page
        if not filled:
            continue
        heights, bottoms = ([own[place] for place in filled] for own in (share, bottom))
        axes.bar(filled, heights, bottom=bottoms, label=label(name, longest=20), **bar(mode, mode // 3))
        bottom = [low + own for low, own in zip(bottom, share, strict=True)]
    name_places(axes, prototype_names(data.class_names, owned))
    axes.set(ylabel="images of the class, %", xlabel="class, prototype")
    axes.grid(axis="y")
    if len(data.mode_names) <= 20:
        axes.legend(title=grouped_by(data), loc="upper left", bbox_to_anchor=(1, 1), borderaxespad=0)
    return plot


def prototype_names(class_names: Sequence[str], owned: Iterable[Sequence[int]]) -> list[str]:
    """What stands at the ticks of an axis; the names of classes are cut, so two ticks may say the same.

    Args:
        class_names: of all classes.
        owned: class of each prototype, and its place there.

    >>> prototype_names(["cat", "german shepherd, young"], [(0, 2), (1, 0)])
    ['cat, 2', 'german she…rd, young, 0']
    """
    return [f"{label(class_names[owner], longest=20)}, {place}" for owner, place in owned]


@styled
def usage_over_time(run: Run | Path | str) -> Plot:
    """Share of the training images of its class that each prototype is nearest to, epoch by epoch.

    Records of earlier versions hold the soft assignment since the last merge, and the plot says so.

    Args:
        run: finished or not; weights are not needed.

    Raises:
        ValueError: a folder that is no run, or in which no usage is recorded.
    """
    stored = run if isinstance(run, Run) else Run(run)
    known = [(line.epoch, line.usage) for line in stored.metrics if line.usage is not None]
    if not known:
        raise UserError(
            f"{called(stored.path)} has no record of usage: it has no prototypes, or was trained by an earlier version"
        )
    trace = [usage for _, usage in known]
    soft = any(line.in_use is None for line in stored.metrics if line.usage is not None)
    meaning = "soft assignment since the last merge" if soft else "images nearest to each in the epoch"
    places = [(owner, place) for owner, own in enumerate(trace[0]) for place in range(len(own))]
    used = [each for each in places if any(epoch[each[0]][each[1]] for epoch in trace)]
    classes = stored.facts.get("class_names", [str(owner) for owner in range(len(trace[0]))])
    plot = Plot(
        "Usage of prototypes in training",
        [f"{labels([stored.path])[0]}: {meaning}; blank: not used"],
        size=(max(5.0, 2 + 0.2 * len(known)), max(3.2, 1 + 0.2 * len(used))),
    )
    shares = [[100 * epoch[owner][place] or float("nan") for epoch in trace] for owner, place in used]
    epochs = [str(epoch) for epoch, _ in known]
    heat_map(plot, shares, prototype_names(classes, used), epochs, ("class, prototype", "epoch"), bar="% of class")
    return plot


def agreement(run: Seen, *, images: int | None = None) -> dict[str, Agreement]:
    """How well the prototypes of each class agree with its true modes, by class name.

    Args:
        run, images: see `prototype_usage`.

    Raises:
        ValueError, DataNotFoundError: see `prototype_usage`.
    """
    seen = Pictured.of(run, images)
    own = {name: seen.data.labels == place for place, name in enumerate(seen.data.class_names)}
    return {
        name: agreement_of(seen.places[mask], seen.data.modes[mask]) for name, mask in own.items() if bool(mask.any())
    }


def nearest_images(run: Seen, *, each: int = 8, images: int | None = None) -> Pictures:
    """The test images that lie nearest to each prototype, of its own class or not.

    Args:
        run, images: see `prototype_usage`.
        each: images for a prototype; those of another class are framed and say so.

    Raises:
        ValueError, DataNotFoundError: see `prototype_usage`.
    """
    seen = Pictured.of(run, images)
    if not 1 <= each <= len(seen.data):
        raise UserError(f"each={each} images are asked for, and there are {len(seen.data)}")
    metric = seen.metric
    nearness = seen.nearness(seen.clean)
    counts = crosstab(seen.data.labels, seen.places, (len(metric.active), metric.active.shape[1]))
    rows = []
    used = [each for each in metric.active.nonzero().tolist() if counts[tuple(each)]]
    for owner, place in used:
        order = nearness[:, owner, place].argsort(descending=True, stable=True)[:each].tolist()
        title = f"{seen.data.class_names[owner]}, prototype {place}"
        pictures = [_picture(seen, index, owner) for index in order]
        rows.append(Row(title, f"{int(counts[owner, place])} images", pictures))
    unused = int(metric.active.sum()) - len(used)
    about = f"{len(seen.data)} test images, the nearest first; a count is of images nearest to it among their own class"
    left_out = f"left out, being nearest to no image of their class: {unused}" * bool(unused)
    return Pictures(f"Nearest images of each prototype: {seen.name}", [*filter(None, [about, left_out])], rows)


def _picture(seen: Pictured, index: int, owner: int) -> Picture:
    data = seen.data
    own = int(data.labels[index])
    words = in_words(data, index) + ", another class" * (own != owner)
    return Picture([data.images[index]], [words], mode_name(data, data.modes[index]), own != owner)
