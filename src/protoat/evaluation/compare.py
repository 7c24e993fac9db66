"""What two evaluations allow to say about each other: image by image for two models, over seeds for two recipes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, NamedTuple

import torch
from scipy.stats import t as student
from torch import Tensor

from protoat.evaluation.paired import Paired
from protoat.evaluation.statistics import Count, worst

__all__ = [
    "WORST_CASE",
    "Comparison",
    "Seeds",
    "check_comparable",
    "common_attacks",
    "compare",
    "entry",
    "overlap",
    "welch",
    "worst_mode",
]

Record = Mapping[str, Any]
WORST_CASE = "worst case"


@dataclass(frozen=True)
class Comparison:
    """Two models under one attack, on the same images.

    Attributes:
        attack: its name, or ``worst case``.
        first, second: what each leaves right.
        pair: the images they disagree on.
        worst_modes: for each, its worst mode and what it leaves right there; these may be different modes.
    """

    attack: str
    first: Count
    second: Count
    pair: Paired
    worst_modes: tuple[tuple[str, Count], tuple[str, Count]]

    @property
    def shown(self) -> bool:
        """Whether there is a difference beyond chance: p below 0.05, and an interval without 0."""
        low, high = self.pair.interval()
        return self.pair.p_value < 0.05 and not low <= 0 <= high

    @property
    def shown_in_worst_mode(self) -> bool:
        """The same for the worst modes, whose images differ: their intervals must not overlap."""
        (_, first), (_, second) = self.worst_modes
        return not overlap(first.interval, second.interval)


class Seeds(NamedTuple):
    """Accuracies of several runs that differ in their seed only.

    >>> seeds = Seeds((0.91, 0.93, 0.92))
    >>> round(seeds.mean, 3), round(seeds.deviation, 3)
    (0.92, 0.01)
    """

    accuracies: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean of the runs."""
        return fmean(self.accuracies)

    @property
    def deviation(self) -> float:
        """Standard deviation of a run, with n - 1 in the denominator; of two runs or more."""
        return stdev(self.accuracies)

    @property
    def interval(self) -> tuple[float, float]:
        """Student's 95 % interval of the mean, of two runs or more.

        >>> [round(end, 3) for end in Seeds((0.91, 0.93, 0.92)).interval]
        [0.895, 0.945]
        """
        half = float(student.ppf(0.975, len(self.accuracies) - 1)) * self.deviation / math.sqrt(len(self.accuracies))
        return self.mean - half, self.mean + half


def welch(first: Seeds, second: Seeds) -> tuple[tuple[float, float], float]:
    """95 % interval of the difference of two means (second minus first), and its two-sided p.

    Args:
        first, second: at least two runs each.

    Source: Welch 1947.

    >>> (low, high), p = welch(Seeds((0.90, 0.91, 0.92)), Seeds((0.93, 0.94, 0.95)))
    >>> round(low, 3), round(high, 3), round(p, 3)
    (0.007, 0.053, 0.021)
    """
    difference = second.mean - first.mean
    a, b = (seeds.deviation**2 / len(seeds.accuracies) for seeds in (first, second))
    if a + b == 0:
        return (difference, difference), float(difference == 0)
    freedom = (a + b) ** 2 / (a**2 / (len(first.accuracies) - 1) + b**2 / (len(second.accuracies) - 1))
    error = math.sqrt(a + b)
    half = float(student.ppf(0.975, freedom)) * error
    return (difference - half, difference + half), 2 * float(student.sf(abs(difference) / error, freedom))


def overlap(first: tuple[float, float], second: tuple[float, float]) -> bool:
    """Whether two intervals share a point."""
    return first[0] <= second[1] and second[0] <= first[1]


def check_comparable(records: Mapping[str, Record]) -> None:
    """Refuses evaluations that are not of the same images under the same threat model.

    Args:
        records: contents of ``evaluation.json``, by the name of what was measured.

    Raises:
        ValueError: one line that says what differs.
    """
    (first, reference), *others = ((name, record["subject"]) for name, record in records.items())
    for name, subject in others:
        differing = [
            f"{_told(subject, key)}, there {_told(reference, key)}"
            for key in ("data_sha256", "images", "threat")
            if subject[key] != reference[key]
        ]
        if differing:
            raise ValueError(
                f"{name} cannot be compared with {first}: it was measured on {'; '.join(differing)}; measure both alike"
            )


def _told(subject: Record, key: str) -> str:
    if key == "data_sha256":
        return f"{subject['data']} ({subject[key][:8]})"
    return f"{subject[key]} images" if key == "images" else f"{subject[key]['norm']} {subject[key]['eps']:g}"


def common_attacks(records: Sequence[Record]) -> list[str]:
    """Attacks that every record has with the same parameters, then the worst case, in the order of the first."""
    first, *others = (record["attacks"] for record in records)
    return [
        *(
            name
            for name, own in first.items()
            if all(name in other and other[name]["parameters"] == own["parameters"] for other in others)
        ),
        WORST_CASE,
    ]


def entry(record: Record, attack: str) -> Record:
    """What a record says of an attack, or of the worst case."""
    found: Record = record["worst_case"] if attack == WORST_CASE else record["attacks"][attack]
    return found


def compare(first: Record, second: Record) -> list[Comparison]:
    """Two evaluations of the same images, for each attack that both have, and for the worst case.

    Each worst case is over all attacks of its own record: one that knows the prototypes exists for one model only.

    Args:
        first, second: contents of ``evaluation.json``.

    Raises:
        ValueError: other images or another threat model; see `check_comparable`.
    """
    check_comparable({"the first": first, "the second": second})
    return [_comparison(name, entry(first, name), entry(second, name)) for name in common_attacks([first, second])]


def _comparison(attack: str, first: Record, second: Record) -> Comparison:
    return Comparison(
        attack,
        Count(first["correct"], first["total"]),
        Count(second["correct"], second["total"]),
        Paired.of(_outcomes(first), _outcomes(second)),
        (worst_mode(first), worst_mode(second)),
    )


def _outcomes(measured: Record) -> Tensor:
    return torch.tensor([outcome == "1" for outcome in measured["outcomes"]])


def worst_mode(measured: Record) -> tuple[str, Count]:
    """The mode that an attack leaves least of."""
    return worst({name: Count(**counts) for name, counts in measured["per_mode"].items()})
