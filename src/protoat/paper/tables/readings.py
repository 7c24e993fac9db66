"""What a cell reads off the record of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from protoat.evaluation.compare import recorded_name
from protoat.evaluation.masking_audit import tally
from protoat.evaluation.statistics import Count, count_of, worst
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
    return sum(line["seconds"] for line in run.metrics) / 60


def _accuracy(run: Run, attack: str) -> Reading:
    entry = _entry(run, attack)
    return Reading(count_of(entry))


def _worst(kind: str) -> Callable[[Run, str], Reading]:
    def of(run: Run, attack: str) -> Reading:
        groups = {name: count_of(counts) for name, counts in _entry(run, attack)[kind].items()}
        name, count = worst(groups)
        return Reading(count, text=name)

    return of


def _entry(run: Run, attack: str) -> Mapping[str, Any]:
    assert run.evaluation is not None
    name = recorded_name(run.evaluation, attack)
    assert name is not None, f"{run.path} holds no {attack}"
    entry: Mapping[str, Any] = run.evaluation["attacks"][name]
    return entry


def _minutes(run: Run, attack: str) -> Reading:
    return Reading(number=minutes(run))


def _prototypes(run: Run, attack: str) -> Reading:
    counts = run.prototype_counts
    return Reading(text="/".join(map(str, counts[-1][1])) if counts else "none")


def _audit(run: Run, attack: str) -> Reading:
    audit = run.audit
    assert audit is not None, f"{run.path} is not audited"
    found = tally(audit)
    told = (("FAILED", found.failed), ("record incomplete:", found.incomplete))
    words = [f"{word} {', '.join(ids)}" for word, ids in told if ids]
    return Reading(text=f"{'; '.join(words) or 'passed'} ({found.extent})")


_READ: dict[str, Callable[[Run, str], Reading]] = {
    "accuracy": _accuracy,
    "worst class": _worst("per_class"),
    "worst mode": _worst("per_mode"),
    "minutes": _minutes,
    "prototypes": _prototypes,
    "audit": _audit,
}
