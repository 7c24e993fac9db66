"""Statistical comparison of evaluations: paired by image for two models, by seeds for two recipes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from statistics import fmean, stdev
from typing import NamedTuple, TypeVar

from scipy.stats import ttest_1samp, ttest_ind

from protoat.errors import UserError
from protoat.evaluation.record import WORST_CASE, Evaluation, Judged
from protoat.evaluation.report import Report, as_html, as_text
from protoat.evaluation.statistics import Count, Paired, fisher, holm, interval_of_mean, worst

Key = TypeVar("Key")


@dataclass(frozen=True)
class Comparison:
    """Two models under one attack, on the same images.

    Attributes:
        attack: its name, or ``worst case``.
        first, second: what each leaves right.
        pair: the images they disagree on.
        per_mode: what each leaves right of each mode; empty where no modes are known beside the classes.
    """

    attack: str
    first: Count
    second: Count
    pair: Paired
    per_mode: Mapping[str, tuple[Count, Count]]

    @property
    def worst_modes(self) -> tuple[tuple[str, Count], tuple[str, Count]] | None:
        """For each its worst mode and what it leaves right there; these may be different modes. None without modes."""
        if not self.per_mode:
            return None
        first, second = (worst({mode: pair[turn] for mode, pair in self.per_mode.items()}) for turn in (0, 1))
        return first, second

    @property
    def p_of_modes(self) -> dict[str, float]:
        """p-value of each mode by Fisher's exact test, not corrected for their number.

        Records keep counts of a mode, not which images are of it, so no paired test can be made.
        """
        return dict(zip(self.per_mode, fisher(list(self.per_mode.values())), strict=True))

    @property
    def p_of_worst_modes(self) -> float | None:
        """p-value of equal accuracy in the worst mode, corrected for the number of modes; None without modes.

        Chance makes some mode the lowest. So the lower worst mode is tested against every mode of the other model, any
        of which may be its worst in truth: the largest p counts, times the number of modes that were chosen from.
        """
        if self.worst_modes is None:
            return None
        lower = min((0, 1), key=[count.accuracy for _, count in self.worst_modes].__getitem__)
        p_values = fisher([(self.worst_modes[lower][1], pair[1 - lower]) for pair in self.per_mode.values()])
        return min(1.0, len(p_values) * max(p_values))


class Seeds(NamedTuple):
    """How many images each run gets right, for runs of one recipe with different seeds; often there is only one run.

    >>> seeds = Seeds((Count(91, 100), Count(93, 100), Count(92, 100)))
    >>> round(seeds.mean, 3), round(seeds.deviation, 3)
    (0.92, 0.01)
    """

    counts: tuple[Count, ...]

    @property
    def accuracies(self) -> list[float]:
        """Of each run, in [0, 1]."""
        return [count.accuracy for count in self.counts]

    @property
    def mean(self) -> float:
        """Mean of the runs."""
        return fmean(self.accuracies)

    @property
    def deviation(self) -> float | None:
        """Standard deviation of a run, with n - 1 in the denominator; None of a single one."""
        return stdev(self.accuracies) if len(self.counts) > 1 else None

    @property
    def images(self) -> tuple[int, int]:
        """Fewest and most of a run."""
        totals = [count.total for count in self.counts]
        return min(totals), max(totals)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean: Wilson's over the images of one run; over seeds, Student's where that is wider.

        Seeds are measured on the same images, so however well they agree, the mean is no surer than one run is.

        >>> [round(end, 3) for end in Seeds((Count(91, 100), Count(97, 100))).interval]
        [0.559, 1.321]
        >>> Seeds((Count(91, 100), Count(91, 100))).interval == Count(91, 100).interval
        True
        """
        low, high = interval_of_mean(self.mean, self.images[0])
        if not self.deviation:
            return low, high
        over_seeds = ttest_1samp(self.accuracies, 0).confidence_interval()
        return min(low, float(over_seeds.low)), max(high, float(over_seeds.high))


def welch(first: Seeds, second: Seeds) -> tuple[tuple[float, float], float] | None:
    """95 % interval of the difference of two means (second minus first) over seeds, and its two-sided p.

    Returns:
        None where one of them is a single run, or all its seeds agree: how far seeds differ is then not known.

    Source: Welch 1947, as scipy computes it.

    >>> one, two = (Seeds(tuple(Count(right, 100) for right in counts)) for counts in ((90, 91, 92), (93, 94, 95)))
    >>> (low, high), p = welch(one, two)
    >>> round(low, 3), round(high, 3), round(p, 3)
    (0.007, 0.053, 0.021)
    """
    if not first.deviation or not second.deviation:
        return None
    test = ttest_ind(second.accuracies, first.accuracies, equal_var=False)
    interval = test.confidence_interval()
    return (float(interval.low), float(interval.high)), float(test.pvalue)


def decided(p_values: Mapping[Key, float]) -> dict[Key, tuple[float, bool]]:
    """Each p of the tests that are made together after Holm's correction, and whether it shows a difference (5 %).

    >>> decided({"clean": 0.03, "pgd10": 0.01})
    {'clean': (0.03, True), 'pgd10': (0.02, True)}
    """
    corrected = holm(list(p_values.values()))
    return {key: (p, p < 0.05) for key, p in zip(p_values, corrected, strict=True)}


def in_words(shown: bool) -> str:
    """What a comparison allows to say."""
    return "a difference" if shown else "no difference shown"


def overlap(first: tuple[float, float], second: tuple[float, float]) -> bool:
    """Whether two intervals share a point."""
    return first[0] <= second[1] and second[0] <= first[1]


def check_comparable(records: Mapping[str, Evaluation]) -> None:
    """Refuses evaluations that are not of the same images under the same threat model.

    Args:
        records: by the name of what was measured.

    Raises:
        ValueError: one line that says what differs.
    """
    (first, reference), *others = ((name, record.subject) for name, record in records.items())
    for name, subject in others:
        differing = [
            f"{ours}, there {theirs}"
            for key, ours, theirs in zip(_SAME, _told(subject), _told(reference), strict=True)
            if getattr(subject, key) != getattr(reference, key)
        ]
        if differing:
            raise UserError(
                f"{name} cannot be compared with {first}: it was measured on {'; '.join(differing)}; measure both alike"
            )


_SAME = ("data_sha256", "images", "threat")


def _told(subject: Judged) -> tuple[str, str, str]:
    threat = subject.threat
    return (
        f"{subject.data} ({str(subject.data_sha256)[:8]})",
        f"{subject.images} images",
        "an unknown radius" if threat is None else f"{threat.norm} {threat.eps:g}",
    )


def common_attacks(records: Sequence[Evaluation]) -> list[str]:
    """Attacks that every record has with the same parameters, in the order of the first, then the worst case.

    The worst case counts where each record's is over these attacks, and over attacks on its own prototypes.
    """
    first, *others = (record.attacks for record in records)
    common = [
        name
        for name, own in first.items()
        if all(name in other and other[name].parameters == own.parameters for other in others)
    ]
    known = all(record.worst_case is not None for record in records)
    # Another model cannot be attacked by what knows the prototypes of one.
    beyond = {name for record in records for name in record.entering if name not in common}
    return [*common, WORST_CASE] if known and all(name.startswith("adaptive") for name in beyond) else common


class Comparisons(list[Comparison]):
    """Two models under each attack that both were measured under; ``print`` shows it as a table."""

    def __str__(self) -> str:
        return as_text(self._rows())

    def _repr_html_(self) -> str:
        return as_html(self._rows())

    def _rows(self) -> list[tuple[str, ...]]:
        tests = decided({each.attack: each.pair.p_value for each in self})
        rows: list[tuple[str, ...]] = [
            ("attack", "first, %", "second, %", "difference [95 % interval]", "p by Holm", "verdict")
        ]
        for each in self:
            p_value, shown = tests[each.attack]
            low, high = (100 * end for end in each.pair.interval())
            difference = f"{100 * each.pair.difference:+.1f} [{low:+.1f}, {high:+.1f}]"
            accuracies = (f"{100 * count.accuracy:.1f}" for count in (each.first, each.second))
            rows.append((each.attack, *accuracies, difference, f"{p_value:.2g}", in_words(shown)))
        return rows


def compare(first: Evaluation | Report, second: Evaluation | Report) -> Comparisons:
    """Two evaluations of the same images, for each attack that both have, and for the worst case over these.

    The worst case is left out where one of them was attacked in more ways; attacks that know its own prototypes are no
    such ways, because another model has none.

    Args:
        first, second: of `protoat.evaluate`, or ``run.evaluation``. That two reports are of the same images is for the
            caller to know, but for their number and classes.

    Raises:
        ValueError: other images or another threat model; see `check_comparable`.
    """
    first, second = _as_evaluation(first), _as_evaluation(second)
    check_comparable({"the first": first, "the second": second})
    found = Comparisons()
    for name in common_attacks([first, second]):
        one, other = first[name], second[name]
        # Records are from outside, and may name other modes.
        modes = [mode for mode in one.per_mode if mode in other.per_mode] if one.has_modes else []
        per_mode = {mode: (one.per_mode[mode], other.per_mode[mode]) for mode in modes}
        pair = Paired.of(one.correct_mask, other.correct_mask)
        found.append(Comparison(name, one.count, other.count, pair, per_mode))
    return found


def _as_evaluation(found: Evaluation | Report) -> Evaluation:
    if isinstance(found, Evaluation):
        return found
    if not isinstance(found, Report):
        raise UserError(f"a {type(found).__name__} is no result of pa.evaluate; give its report, or run.evaluation")
    images, modes = found.indices.tolist(), {name: count.total for name, count in found.worst_case.per_mode.items()}
    known = sha256(json.dumps([images, modes]).encode()).hexdigest()
    subject = Judged(data="a report's images", images=len(images), data_sha256=known)
    return Evaluation(subject, found.attacks, found.worst_case)
