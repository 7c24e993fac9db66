"""What a cell tells of the records of runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from protoat.evaluation import AttackReport
from protoat.evaluation.estimate import Outcome, Over
from protoat.evaluation.order import measured
from protoat.evaluation.statistics import Count
from protoat.runs.run import Run


@dataclass(frozen=True)
class Reading:
    """A value of one seed.

    Attributes:
        count: images that stay right, of how many.
        outcome: which images stay right, where groups of them count alike or a baseline is subtracted.
        ceiling: the outcome that it is a share of.
        number: what is no count, such as minutes.
        text: the class or mode counted, or what is neither count nor number.
    """

    count: Count | None = None
    outcome: Outcome | None = None
    ceiling: Outcome | None = None
    number: float | None = None
    text: str = ""


def read(what: str, runs: Sequence[Run], attack: str) -> Reading:
    """A reading by its name (`protoat.paper.tables.table.Read`), of a run and those it is compared with."""
    return _READ[what](runs, attack)


def _gain(over: Over) -> Callable[[Sequence[Run], str], Reading]:
    def of(runs: Sequence[Run], attack: str) -> Reading:
        before = _entry(runs[1], attack).correct_mask
        found = []
        for run in (runs[0], *runs[2:]):
            groups = _groups(run, "modes") if over == "least" else torch.zeros(len(before), dtype=torch.int64)
            found.append(Outcome(_entry(run, attack).correct_mask, groups, over, before))
        return Reading(outcome=found[0], ceiling=found[1] if runs[2:] else None)

    return of


_GROUPS: dict[tuple[str, str, int], Tensor] = {}  # by digest and number of the images


def _groups(run: Run, kind: str) -> Tensor:
    """Class or mode of each image that was measured."""
    assert run.evaluation is not None
    subject = run.evaluation.subject
    key = str(subject.data_sha256), kind, subject.images
    if key not in _GROUPS:
        data = run.test_images
        _GROUPS[key] = (data.labels if kind == "labels" else data.modes).cpu()[measured(data, subject.images)]
    return _GROUPS[key]


def _entry(run: Run, attack: str) -> AttackReport:
    assert run.evaluation is not None
    return run.evaluation[attack]


def minutes(run: Run) -> float:
    """Time spent in training, validation included."""
    return sum(line.seconds for line in run.metrics) / 60


def _overhead(runs: Sequence[Run], attack: str) -> Reading:
    """Training time over that of the baseline, in per cent, for each epoch: one of them may have stopped early."""
    ours, theirs = (minutes(each) / len(each.metrics) for each in runs)
    return Reading(number=100 * (ours / theirs - 1))


def _prototypes(runs: Sequence[Run], attack: str) -> Reading:
    counts = runs[0].prototype_counts
    return Reading(text="/".join(map(str, counts[-1][1])) if counts else "none")


def _audit(runs: Sequence[Run], attack: str) -> Reading:
    audit = runs[0].audit
    assert audit is not None, f"{runs[0].path} is not audited"
    told = (("FAILED", audit.failed), ("record incomplete:", audit.incomplete))
    words = [f"{word} {', '.join(ids)}" for word, ids in told if ids]
    return Reading(text=f"{'; '.join(words) or 'passed'} ({audit.extent})")


def _named(group: tuple[str, Count]) -> Reading:
    return Reading(group[1], text=group[0])


_READ: dict[str, Callable[[Sequence[Run], str], Reading]] = {
    "accuracy": lambda runs, attack: Reading(_entry(runs[0], attack).count),
    "balanced accuracy": lambda runs, attack: Reading(
        outcome=Outcome(_entry(runs[0], attack).correct_mask, _groups(runs[0], "labels"))
    ),
    "worst class": lambda runs, attack: _named(_entry(runs[0], attack).worst_class),
    "worst mode": lambda runs, attack: _named(_entry(runs[0], attack).worst_mode),
    "gain": _gain("mean"),
    "gain in worst mode": _gain("least"),
    "share of ceiling": _gain("mean"),
    "share of ceiling in worst mode": _gain("least"),
    "minutes": lambda runs, attack: Reading(number=minutes(runs[0])),
    "overhead": _overhead,
    "prototypes": _prototypes,
    "audit": _audit,
}
