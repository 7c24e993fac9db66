"""The base class of audit checks, and the threshold rule they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from scipy.stats import binomtest
from torch import Tensor

from protoat.evaluation.masking_audit.context import AuditContext
from protoat.evaluation.statistics import Paired

Status = Literal["pass", "fail", "incomplete", "not run"]
NO_RECORD = "needs evaluation.json of this model, data and radius: protoat evaluate (library: record=)"
_DOUBT = 0.05


class Verdict(NamedTuple):
    """What a check found.

    Attributes:
        status: ``"pass"``, ``"fail"``, ``"incomplete"`` where only the record lacks something, or ``"not run"``.
        reason: one line with the decisive figures; what is missing where it did not run.
        figures: JSON values; a count of images under the name of an attack is what it leaves right.
    """

    status: Status
    reason: str
    figures: dict[str, Any]


class Check(NamedTuple):
    """One check.

    Attributes:
        id: its number in the literature.
        title: what should hold.
        run: finds out.
        follows_gradients: whether that needs gradients.
        fixed, growing: its share of the time of an audit of a thousand images, in per cent, as measured on the run
            mnist-2 of the zoo: what attacks on a few images take, and what grows with the number of images.
        absent: of one that looks at the record, its status where there is none.
    """

    id: str
    title: str
    run: Callable[[AuditContext], Verdict]
    follows_gradients: bool = True
    fixed: float = 0.0
    growing: float = 0.1
    absent: Status | None = None


def judged(passed: bool, reason: str, **figures: Any) -> Verdict:
    """The verdict of a check that ran."""
    return Verdict("pass" if passed else "fail", reason, figures)


def complete(whole: bool, reason: str, **figures: Any) -> Verdict:
    """The verdict of a check that says nothing of the model, only whether the record holds what it should."""
    return Verdict("pass" if whole else "incomplete", reason, figures)


def not_run(missing: str) -> Verdict:
    """The verdict of a check that needs something which is not there."""
    return Verdict("not run", missing, {})


def all_of(verdicts: Sequence[Verdict]) -> Verdict:
    """Passes where all do; the reasons are those of the failures, if there are any."""
    failed = [verdict for verdict in verdicts if verdict.status == "fail"]
    reason = "; ".join(verdict.reason for verdict in failed or verdicts)
    return judged(not failed, reason, parts=[verdict.figures for verdict in verdicts])


def too_many(count: int, total: int, share: float) -> bool:
    """Whether `count` of `total` images is more than a share, beyond what chance explains (one-sided, 5 %).

    >>> too_many(3, 1000, 0.001), too_many(4, 1000, 0.001), too_many(1, 10, 0.001)
    (False, True, True)
    """
    return count > share * total and bool(binomtest(count, total, share, "greater").pvalue < _DOUBT)


def at_most(share: float, count: int, total: int, reason: str, trouble: str = "", **figures: Any) -> Verdict:
    """Passes unless `count` of `total` images is more than a share, see `too_many`; `trouble` then ends the reason."""
    beyond = too_many(count, total, share)
    return judged(not beyond, reason + trouble * beyond, images=total, **figures, limit_share=share)


def not_above(
    attack: tuple[str, Tensor], reference: tuple[str, Tensor], points: float, trouble: str, **figures: Any
) -> Verdict:
    """Passes unless an attack leaves more images right than a reference does, which it should beat.

    It may leave `points` per cent more, and whatever chance explains in the images they disagree on (exact McNemar
    test, one-sided, 5 %).

    Args:
        attack, reference: each with its name, and (N,) bool of the same images.
        points: per cent of the images.
        trouble: what a failure means.
        figures: further ones.
    """
    (name, left), (other, left_there) = attack, reference
    pair = Paired.of(left_there, left)
    beyond = pair.difference > points / 100 and pair.p_above < _DOUBT
    reason = f"{name} leaves {percent(left)}, {other} {percent(left_there)}" + f": {trouble}" * beyond
    return judged(
        not beyond,
        reason,
        images=pair.total,
        **{name: int(left.sum()), other: int(left_there.sum())},
        only_left_by={name: pair.only_second, other: pair.only_first},
        p=pair.p_above,
        limit_points=points,
        **figures,
    )


def percent(right: Tensor) -> str:
    """The share of True, such as ``83.2 %``."""
    return f"{100 * float(right.float().mean()):.1f} %"
