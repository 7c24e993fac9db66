"""Report sections on training: curves and prototypes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from protoat.reports.blocks import Block, Chart, Gallery, Grid, Text
from protoat.reports.records import changes_of, epochs_of
from protoat.reports.sections.pictures import Views, from_weights
from protoat.runs.claims import called
from protoat.runs.records import Records, RunRecords

if TYPE_CHECKING:
    from protoat.plots.subject import Pictured

_ATLAS, _EACH = 40, 5


def training(records: Records) -> list[Block]:
    """Loss and held-out accuracy of every epoch."""
    from protoat.plots.curves import training_curves

    run = records.run
    if run is None or not run.metrics:
        return [Text("There is no record of training.", "missing")]
    columns, rows = epochs_of(run)
    about = "Lines over epochs: loss, and accuracy on held-out images where there are any; the table has the numbers."
    return [
        Chart(training_curves([records.path]), about),
        Grid("Every epoch", columns, rows, folded=True),
        *_found_modes(run),
    ]


def _found_modes(run: RunRecords) -> Iterator[Block]:
    """The clusters of each class, each time they were found."""
    found = [(line.epoch, line.modes) for line in run.metrics if line.modes is not None]
    new = [(epoch, modes) for place, (epoch, modes) in enumerate(found) if not place or modes != found[place - 1][1]]
    names = run.facts.get("class_names") or [str(label) for label in range(len(new[0][1].sizes) if new else 0)]
    rows = [
        [str(epoch), name, str(sum(size > 0 for size in sizes)), f"{max(sizes, default=0) / max(1, sum(sizes)):.0%}"]
        + ["unknown" if value is None else f"{value:.2f}" for value in (nmi, purity)]
        for epoch, modes in new
        for name, sizes, nmi, purity in zip(names, modes.sizes, modes.nmi, modes.purity, strict=False)
    ]
    if rows:
        columns = ["after epoch", "class", "clusters", "share of the largest", "NMI with the true modes", "purity"]
        yield Grid("Modes that were found", columns, rows, text=2, folded=len(rows) > 20)


def prototypes(records: Records, views: Views) -> list[Block]:
    """Counts over time; usage, agreement with modes and nearest images of the final weights."""
    run = records.run
    if run is None or not run.prototype_counts:
        text = "No prototypes: it was not trained with SoftTriple." if run else "There is no record of prototypes."
        return [Text(text, "missing")]
    return [
        *_held_by_one(run),
        *_counts(records, run),
        *from_weights("prototypes", [records], views, lambda: _final(views[records.path])),
        *_head(records),
    ]


def _held_by_one(run: RunRecords) -> Iterator[Block]:
    """What to change where one prototype takes almost all of its class."""
    names = run.facts.get("class_names", [])
    for number, share in run.held_by_one.items():
        name = names[number] if number < len(names) else number
        projection = run.choices["regularizer"]["init_args"].get("projection")
        change = (
            "--regularizer.projection batchnorm --regularizer.gamma 0.3"
            if projection is None
            else "a higher --regularizer.gamma, --regularizer.tau 0"
        )
        text = f"One prototype of class {name} takes {share:.0%} of its images, so no modes are told apart"
        yield Text(f"{text}; train with {change}, or a lower --prototype_lr_factor.", "warning")


def _counts(records: Records, run: RunRecords) -> Iterator[Block]:
    from protoat.plots.prototypes import prototype_counts

    yield Chart(
        prototype_counts(records.path),
        "A line for each class over epochs: how many prototypes 1 % or more of its images are nearest to (in records "
        "of earlier versions: how many are left); the table has the epochs in which one changed.",
    )
    rows = changes_of(run)
    names = run.facts.get("class_names") or [str(index) for index in range(len(rows[0]) - 1)]
    yield Grid("Prototypes in use, where a count changed", ["epoch", *names], rows, folded=len(rows) > 20)


def _final(seen: Pictured) -> Sequence[Block]:
    """What needs weights and images."""
    from protoat.plots.prototypes import prototype_usage

    about = "A bar for each prototype: the share of the images of its class that are nearest to it, by true mode."
    return [
        Chart(prototype_usage(seen), about),
        *(_agreement(seen) if seen.has_modes else [Text("No modes are known that prototypes could agree with.")]),
        _nearest(seen),
    ]


def _agreement(seen: Pictured) -> Sequence[Block]:
    from protoat.plots.prototypes import agreement

    rows = [
        [name, f"{own.nmi:.2f}", f"{own.purity:.2f}", f"{own.chance:.2f}", *map(str, own[3:])]
        for name, own in agreement(seen).items()
    ]
    columns = ["class", "NMI", "purity", "purity of one prototype", "images", "prototypes", "modes"]
    return [
        Grid("Agreement of the prototypes of each class with its true modes", columns, rows),
        Text(
            "Purity grows with the number of prototypes by itself; NMI is 1 where prototypes are the modes, 0 at worst."
        ),
    ]


def _nearest(seen: Pictured) -> Block:
    """The images nearest to each prototype, unless they would make a file too large to open."""
    from protoat.plots.prototypes import nearest_images

    number = int(seen.metric.active.sum())
    if number > _ATLAS:
        return Text(
            f"The nearest images of {number} prototypes need a file: protoat figure nearest {called(seen.path)}"
        )
    return Gallery(nearest_images(seen, each=min(_EACH, len(seen.data))))


def _head(records: Records) -> Iterator[Block]:
    """Accuracy where the nearest prototype predicts, which has a record of its own."""
    record = Records(records.path / "prototypes").evaluation
    if record is not None:
        rows = [[name, found.count.in_percent] for name, found in record.attacks.items()]
        yield Grid("Where the nearest class by prototypes predicts", ["attack", "accuracy % [95 %]"], rows)
