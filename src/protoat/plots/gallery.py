"""Images before and after an attack, the weakest modes first."""

from __future__ import annotations

import torch

from protoat.evaluation import Count
from protoat.evaluation.record import Evaluation
from protoat.evaluation.statistics import count_by, weakest_first
from protoat.plots.pictures import Picture, Pictures, Row
from protoat.plots.style import shown
from protoat.plots.subject import Pictured, Seen, grouped_by, in_words, mode_name, said


def attacked_images(
    run: Seen, *, images: int | None = 300, attack: str = "pgd10", modes: int = 6, each: int = 3
) -> Pictures:
    """Clean image, perturbation and attacked image, with the class and the mode that the model takes each for.

    Modes that the run's evaluation finds weakest come first, or those weakest here where it is for another threat model
    than the attack; of a mode, images that the attack turns wrong. The nearest mode is that of the clean image nearest
    by embedding, itself left out. Perturbations are enlarged until their largest entry is black or white; grey is
    unchanged.

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
    near = [seen.near_modes(part).tolist() for part in (seen.clean, seen.attacked(attack))]
    record, threat = None if seen.stored.outdated else seen.stored.evaluation, seen.threat(attack)
    alike = record is not None and record.subject.threat == threat
    counts, where = _counts(seen, attack, record if alike else None)
    there = {seen.data.mode_names[mode] for mode in seen.data.modes.unique().tolist()}
    rows = []
    for name in [name for name in weakest_first(counts) if name in there][:modes]:
        pictures = [_picture(seen, attack, row, [own[row] for own in near]) for row in _rows(seen, attack, name)[:each]]
        rows.append(Row(f"{grouped_by(seen.data)} {name}", f"{shown(counts[name])} stay right {where}", pictures))
    about = (
        f"of {len(seen.data)} test images, attacked by {attack}, {threat.norm}, eps {threat.eps:.4g}: clean, change "
        "(enlarged; grey is unchanged), attacked; below, the class said and the nearest mode, before and after"
    )
    lines = [about]
    if record is not None and not alike:
        known = record.subject.threat or "an unknown threat model"
        lines.append(f"what stays right is counted on these images, as the evaluation of the run is for {known}")
    return Pictures(f"Attacked images: {seen.name}", lines, rows)


def _counts(seen: Pictured, attack: str, record: Evaluation | None) -> tuple[dict[str, Count], str]:
    """What stays right of each mode, and where: in an evaluation if there is one, else here."""
    right = seen.attacked(attack).predicted == seen.data.labels
    here = count_by(right, seen.data.modes, seen.data.mode_names)
    known = {} if record is None or record.worst_case is None else record.worst_case.per_mode
    return (known, "in the worst case") if known.keys() >= here.keys() else (here, f"under {attack}")


def _rows(seen: Pictured, attack: str, mode: str) -> list[int]:
    """The images of a mode: those that the attack turns wrong, those that stay right, those that are wrong anyway."""
    before, after = (part.predicted == seen.data.labels for part in (seen.clean, seen.attacked(attack)))
    rank = torch.where(~before, 2, torch.where(after, 1, 0))
    of_mode = (seen.data.modes == seen.data.mode_names.index(mode)).nonzero()[:, 0]
    return list(of_mode[rank[of_mode].argsort(stable=True)].tolist())


def _picture(seen: Pictured, attack: str, row: int, near: list[int]) -> Picture:
    data, clean, attacked = seen.data, seen.clean.images[row], seen.attacked(attack).images[row]
    change = attacked - clean
    enlarged = 0.5 + change / (2 * change.abs().max().clamp_min(1e-12))
    predicted = [part.predicted[row] for part in (seen.clean, seen.attacked(attack))]
    taken = [
        f"{said(data, own)}, near {mode_name(data, mode)}" if seen.has_modes else said(data, own)
        for own, mode in zip(predicted, near, strict=True)
    ]
    words = [
        f"clean, class {in_words(data, row)}, taken for {taken[0]}",
        "perturbation, enlarged",
        f"attacked, taken for {taken[1]}",
    ]
    wrong = bool(predicted[1] != data.labels[row])
    return Picture([clean, enlarged, attacked], words, f"{taken[0]} → {taken[1]}", wrong)
