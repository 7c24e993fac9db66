"""Reads the value of a cell from the record of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from protoat.evaluation import AttackReport
from protoat.evaluation.statistics import Count
from protoat.runs.run import Run

__all__ = ["Reading", "minutes", "read"]


@dataclass(frozen=True)
class Reading:
    """A value of one run.

    Attributes:
        count: images that stay right, of how many.
        number: what is no count, such as minutes.
        text: the class or mode counted, or what is neither count nor number.
    """

    count: Count | None = None
    number: float | None = None
    text: str = ""


def read(what: str, run: Run, attack: str) -> Reading:
    """A reading by its name (`protoat.paper.tables.table.Read`), except ``overhead``, which is of two runs."""
    return _READ[what](run, attack)


def minutes(run: Run) -> float:
    """Time spent in training, validation included."""
    return sum(line.seconds for line in run.metrics) / 60


def _accuracy(run: Run, attack: str) -> Reading:
    return Reading(_entry(run, attack).count)


def _worst(kind: str) -> Callable[[Run, str], Reading]:
    def of(run: Run, attack: str) -> Reading:
        name, count = getattr(_entry(run, attack), kind)
        return Reading(count, text=name)

    return of


def _entry(run: Run, attack: str) -> AttackReport:
    assert run.evaluation is not None
    return run.evaluation[attack]


def _minutes(run: Run, attack: str) -> Reading:
    return Reading(number=minutes(run))


def _prototypes(run: Run, attack: str) -> Reading:
    counts = run.prototype_counts
    return Reading(text="/".join(map(str, counts[-1][1])) if counts else "none")


def _audit(run: Run, attack: str) -> Reading:
    audit = run.audit
    assert audit is not None, f"{run.path} is not audited"
    told = (("FAILED", audit.failed), ("record incomplete:", audit.incomplete))
    words = [f"{word} {', '.join(ids)}" for word, ids in told if ids]
    return Reading(text=f"{'; '.join(words) or 'passed'} ({audit.extent})")


_READ: dict[str, Callable[[Run, str], Reading]] = {
    "accuracy": _accuracy,
    "worst class": _worst("worst_class"),
    "worst mode": _worst("worst_mode"),
    "minutes": _minutes,
    "prototypes": _prototypes,
    "audit": _audit,
}
