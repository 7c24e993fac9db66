"""Heat maps of prototypes against modes, and of images before against after an attack."""

from __future__ import annotations

from torch import Tensor

from protoat.functional.partitions import crosstab
from protoat.plots.heat_map import heat_map
from protoat.plots.plot import Plot, styled
from protoat.plots.prototypes import agreement, prototype_names
from protoat.plots.style import label
from protoat.plots.subject import Pictured, Seen, grouped_by
from protoat.regularizers import SoftTriple


@styled
def agreement_map(run: Seen, *, images: int | None = None) -> Plot:
    """Which modes the images of each prototype are of, with NMI and purity of each class.

    Args:
        run, images: see `protoat.plots.prototypes.prototype_usage`.

    Raises:
        ValueError, DataNotFoundError: see there.
    """
    seen = Pictured.of(run, images)
    active = seen.metric.active
    position = active.flatten().cumsum(0) - 1
    rows = position[seen.data.labels * active.shape[1] + seen.places]
    table = crosstab(rows, seen.data.modes, (int(active.sum()), len(seen.data.mode_names)))
    found = agreement(seen)
    lines = [
        f"{label(name)}: NMI {own.nmi:.2f}; purity {own.purity:.2f}, with one prototype {own.chance:.2f}; {own.images} "
        f"images, {own.prototypes} prototypes used, {own.modes} modes"
        for name, own in list(found.items())[:4]
    ]
    if len(found) > len(lines):
        nmi, purity = (sum(own[entry] for own in found.values()) / len(found) for entry in (0, 1))
        lines = [f"{len(found)} classes; mean NMI {nmi:.2f}; mean purity {purity:.2f}"]
    about = f"{len(seen.data)} test images, each at the nearest prototype of its own class"
    plot = _plot(f"Prototypes and modes: {seen.name}", [about, *lines], len(table), table.shape[1])
    return _counts(plot, table, _prototypes(seen), _modes(seen), ("prototype", f"true {grouped_by(seen.data)}"))


@styled
def transition_map(run: Seen, *, images: int | None = 1000, attack: str = "pgd10") -> Plot:
    """Where attacked images go: from the prototype nearest to the clean image to the one nearest to the attacked image.

    Prototypes of all classes count. Of a run without prototypes, from the true mode to the mode of the clean image that
    is nearest to the attacked one, itself left out.

    Args:
        run: with weights.
        images: test images, a share of each mode; None takes all.
        attack: name as for ``protoat evaluate``.

    Raises:
        ValueError: see `Pictured`; an unknown attack.
        DataNotFoundError: the test images are not there.
    """
    seen = Pictured.of(run, images)
    attacked = seen.attacked(attack)
    if isinstance(seen.subject.regularizer, SoftTriple):
        places, what, to = _prototypes(seen), "nearest prototype", "nearest prototype, attacked"
        before, after = (seen.nearness(part)[:, seen.metric.active].argmax(1) for part in (seen.clean, attacked))
    else:
        places, what = _modes(seen), grouped_by(seen.data)
        to = f"{what} of the nearest clean image, attacked"
        before, after = seen.data.modes, seen.near_modes(attacked)
    table = crosstab(before, after, (len(places), len(places)))
    threat, stays = seen.threat(attack), int(table.diagonal().sum())
    about = f"{len(seen.data)} test images, {label(attack)}, {threat.norm}, eps {threat.eps:.4g}; {stays} stay"
    plot = _plot(f"Where attacked images go: {seen.name}", [about], len(places), len(places))
    return _counts(plot, table, places, places, (f"{what}, clean", to))


def _prototypes(seen: Pictured) -> list[str]:
    return prototype_names(seen.data.class_names, seen.metric.active.nonzero().tolist())


def _modes(seen: Pictured) -> list[str]:
    return [label(name, longest=20) for name in seen.data.mode_names]


def _plot(title: str, about: list[str], rows: int, columns: int) -> Plot:
    return Plot(title, about, size=(max(5.0, 2 + 0.32 * columns), max(3.2, 1.4 + 0.26 * rows)))


def _counts(plot: Plot, table: Tensor, rows: list[str], columns: list[str], axes: tuple[str, str]) -> Plot:
    """Counts with their numbers in the cells where there is room; colour is the share of the row."""
    share = 100 * table.double() / table.sum(1, keepdim=True).clamp_min(1)
    words = [[str(count) for count in row] for row in table.tolist()]
    heat_map(plot, share.tolist(), rows, columns, axes, words=words)
    return plot
