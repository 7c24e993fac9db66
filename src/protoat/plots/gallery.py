"""Images before and after an attack, of the weakest modes first: what changed, and what the model makes of them."""

from __future__ import annotations

from torch import Tensor

from protoat.evaluation import Count
from protoat.evaluation.statistics import weakest_first
from protoat.plots.pictures import Picture, Pictures, Row
from protoat.plots.style import shown
from protoat.plots.subject import Pictured, Seen, mode_name, said

__all__ = ["attacked_images"]


def attacked_images(
    run: Seen, *, images: int | None = 300, attack: str = "pgd10", modes: int = 6, each: int = 3
) -> Pictures:
    """Clean image, perturbation and attacked image, with the class and the mode that the model takes each for.

    Modes that the run's evaluation finds weakest come first, else those weakest here; of a mode, images that the attack
    turns wrong come first. The
    nearest mode is that of the clean image nearest by embedding, itself left out.
    Perturbations are enlarged until their largest entry is black or white; grey is unchanged.

    Args:
        run: with weights.
        images: test images that are attacked, a share of each mode; None takes all.
        attack: name as for ``protoat evaluate``.
        modes: how many modes are shown.
        each: images of a mode.

    Raises:
        ValueError: see `Pictured`; an unknown attack.
        DataNotFoundError: the test images are not there.
    """
    seen = Pictured.of(run, images)
    data, clean, attacked = seen.data, seen.clean, seen.attacked(attack)
    before, after = (part.predicted == data.labels for part in (clean, attacked))
    near = [seen.near_modes(part).tolist() for part in (clean, attacked)]
    here = {
        data.mode_names[mode]: Count(int(after[data.modes == mode].sum()), int((data.modes == mode).sum()))
        for mode in data.modes.unique().tolist()
    }
    known = _recorded(seen)
    counts, where = (known, "in the worst case") if known.keys() >= here.keys() else (here, f"under {attack}")
    order = [name for name in weakest_first(counts) if name in here]
    rows = []
    for name in order[:modes]:
        of_mode = (data.modes == data.mode_names.index(name)).nonzero()[:, 0]
        fooled = 2 * (before & ~after)[of_mode].int() + before[of_mode].int()
        shown_here = of_mode[fooled.argsort(descending=True, stable=True)[:each]].tolist()
        pictures = [_picture(seen, attacked.images[row], row, attack, [own[row] for own in near]) for row in shown_here]
        rows.append(
            Row(
                f"{'mode' if seen.has_modes else 'class'} {name}", f"{shown(counts[name])} stay right {where}", pictures
            )
        )
    threat = seen.subject.threat
    about = (
        f"of {len(data)} test images, attacked by {attack}, {threat.norm}, eps {threat.eps:.4g}: clean, perturbation "
        "(enlarged; grey is unchanged), attacked; below, the class said and the nearest mode, before and after"
    )
    return Pictures(f"Attacked images: {seen.name}", [about], rows)


def _recorded(seen: Pictured) -> dict[str, Count]:
    """What the evaluation of the run says of its modes, where it is of these weights."""
    record = None if seen.stored.outdated else seen.stored.evaluation
    return {} if record is None or record.worst_case is None else record.worst_case.per_mode


def _picture(seen: Pictured, attacked: Tensor, row: int, attack: str, near: list[int]) -> Picture:
    data, clean = seen.data, seen.clean.images[row]
    change = attacked - clean
    enlarged = 0.5 + change / (2 * change.abs().max().clamp_min(1e-12))
    predicted = [part.predicted[row] for part in (seen.clean, seen.attacked(attack))]
    taken = [
        f"{said(data, own)}, near {mode_name(data, mode)}" if seen.has_modes else said(data, own)
        for own, mode in zip(predicted, near, strict=True)
    ]
    own = f"class {data.class_names[int(data.labels[row])]}, mode {data.mode_names[int(data.modes[row])]}"
    words = [f"clean, {own}, taken for {taken[0]}", "perturbation, enlarged", f"attacked, taken for {taken[1]}"]
    wrong = bool(predicted[1] != data.labels[row])
    return Picture([clean, enlarged, attacked], words, f"{taken[0]} → {taken[1]}", wrong)
