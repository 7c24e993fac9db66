"""Counts of images, their confidence intervals, and tests of differences between them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import binomtest, hypergeom
from torch import Tensor

from protoat.errors import UserError


class Count(NamedTuple):
    """How many images of a group are classified correctly. Counts are stored; fractions are computed.

    >>> Count(62, 100).accuracy
    0.62
    """

    correct: int
    total: int

    @property
    def accuracy(self) -> float:
        """Fraction in [0, 1]; NaN for an empty group."""
        return self.correct / self.total if self.total else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % score interval of the accuracy; (0, 1) for an empty group.

        Source: Wilson, JASA 1927, as scipy computes it. It speaks about images drawn like these and about this model;
        it knows nothing of the spread between training seeds.

        >>> [round(end, 4) for end in Count(5, 10).interval]
        [0.2366, 0.7634]
        """
        if not self.total:
            return 0.0, 1.0
        interval = binomtest(self.correct, self.total).proportion_ci(0.95, method="wilson")
        return float(interval.low), float(interval.high)

    @property
    def in_percent(self) -> str:
        """The accuracy in per cent with its interval.

        >>> Count(621, 1000).in_percent
        '62.1 [59.1, 65.1]'
        """
        return percentage(self.accuracy, self.interval)


def interval_of_mean(share: float, total: int) -> tuple[float, float]:
    """95 % interval of a mean share as if it were of one draw of `total`: Wilson's, of the whole counts around it.

    No share in [0, 1] varies more than one that is 0 or 1, so it is wide enough.

    >>> interval_of_mean(0.62, 100) == Count(62, 100).interval
    True
    """
    fewest, most = math.floor(share * total + 1e-9), math.ceil(share * total - 1e-9)  # 0.29 * 100 is above 29
    return Count(fewest, total).interval[0], Count(most, total).interval[1]


class Paired(NamedTuple):
    """How two measurements of the same images differ.

    Attributes:
        only_first: images that are right in the first measurement only.
        only_second: images that are right in the second only.
        total: all images.

    >>> pair = Paired(only_first=2, only_second=10, total=100)
    >>> round(pair.difference, 3), round(pair.p_value, 4)
    (0.08, 0.0386)
    """

    only_first: int
    only_second: int
    total: int

    @classmethod
    def of(cls, first: Tensor, second: Tensor) -> Paired:
        """Counts from two (N,) bool tensors, which images each measurement found right.

        Raises:
            ValueError: other shapes.
        """
        if first.shape != second.shape or first.dim() != 1:
            raise UserError(f"outcomes of shape {tuple(first.shape)} and {tuple(second.shape)} are not of one set")
        return cls(int((first & ~second).sum()), int((second & ~first).sum()), len(first))

    @property
    def difference(self) -> float:
        """Accuracy of the second minus that of the first."""
        return (self.only_second - self.only_first) / self.total

    @property
    def p_value(self) -> float:
        """Two-sided exact McNemar test: how often chance alone would split the disagreement at least so unevenly.

        Source: McNemar 1947, with the binomial distribution in place of the chi-squared one.
        """
        return self._binomial("two-sided")

    @property
    def p_above(self) -> float:
        """One-sided exact McNemar test: small where the second is right more often than the first."""
        return self._binomial("greater")

    def _binomial(self, alternative: str) -> float:
        disagreeing = self.only_first + self.only_second
        return float(binomtest(self.only_second, disagreeing, 0.5, alternative).pvalue) if disagreeing else 1.0

    def interval(self, *, resamples: int = 10_000) -> tuple[float, float]:
        """95 % percentile bootstrap interval of `difference`, over images; always the same draws.

        It knows nothing of the spread between training seeds.

        Args:
            resamples: sets of `total` images drawn with replacement. An image enters by its kind only (right in the
                first, in the second, or alike in both), so a set is one multinomial draw.

        Source: Efron and Tibshirani 1993.

        >>> [round(end, 3) for end in Paired(2, 10, 100).interval()]
        [0.02, 0.15]
        """
        shares = np.array([self.only_first, self.only_second, self.total - self.only_first - self.only_second])
        draws = np.random.default_rng(0).multinomial(self.total, shares / self.total, resamples)
        tail = (1 - 0.95) / 2
        low, high = np.quantile((draws[:, 1] - draws[:, 0]) / self.total, [tail, 1 - tail])
        return float(low), float(high)


def fisher(pairs: Sequence[tuple[Count, Count]]) -> list[float]:
    """Two-sided p-values of Fisher's exact test, each of two accuracies; twice that of the smaller tail.

    It takes the two groups as independent. Two models that tend to fail on the same images differ less than that by
    chance, so of one group of images under two models the test is conservative.

    Source: Fisher, Journal of the Royal Statistical Society 1935.

    >>> [round(p, 4) for p in fisher([(Count(0, 20), Count(9, 20)), (Count(5, 20), Count(5, 20))])]
    [0.0012, 1.0]
    """
    counts = np.array(pairs, dtype=np.int64).reshape(-1, 2, 2)
    right, total = counts[:, :, 0], counts[:, :, 1]
    # Of all images together so many are right: how many of these would be of the first group?
    law = hypergeom(np.maximum(total.sum(1), 1), total[:, 0], right.sum(1))
    tails = np.minimum(law.cdf(right[:, 0]), law.sf(right[:, 0] - 1))
    return [float(p) for p in np.minimum(1.0, 2 * tails)]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-adjusted p-values; rejecting those below 0.05 keeps the family-wise error at 5 %.

    Source: Holm, Scandinavian Journal of Statistics 1979.

    >>> [round(p, 3) for p in holm([0.03, 0.01, 0.8])]
    [0.06, 0.03, 0.8]
    """
    adjusted, highest = dict.fromkeys(range(len(p_values)), 0.0), 0.0
    for rank, place in enumerate(sorted(adjusted, key=lambda place: p_values[place])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return list(adjusted.values())


def percentage(share: float, interval: tuple[float, float], *, beside: str = "") -> str:
    """A share in per cent, what is said beside it, and its interval within 0 and 100.

    >>> percentage(0.621, (0.591, 1.003)), percentage(0.5, (0.4, 0.6), beside=" ± 1.4")
    ('62.1 [59.1, 100.0]', '50.0 ± 1.4 [40.0, 60.0]')
    """
    low, high = (100 * min(max(end, 0.0), 1.0) for end in interval)
    return f"{100 * share:.1f}{beside} [{low:.1f}, {high:.1f}]"


def count_by(correct: Tensor, index: Tensor, names: Sequence[str]) -> dict[str, Count]:
    """Counts of each group that has images, in the order of `names`.

    Args:
        correct: (N,) bool.
        index: (N,) int64 into `names`.
        names: of the groups.

    >>> count_by(torch.tensor([True, False, True]), torch.tensor([0, 0, 2]), ["a", "b", "c"])
    {'a': Count(correct=1, total=2), 'c': Count(correct=1, total=1)}
    """
    totals = torch.bincount(index, minlength=len(names)).tolist()
    hits = torch.bincount(index[correct], minlength=len(names)).tolist()
    return {name: Count(hit, total) for name, hit, total in zip(names, hits, totals, strict=True) if total}


def worst(groups: dict[str, Count]) -> tuple[str, Count]:
    """The group with the lowest accuracy; of equals, the first.

    >>> worst({"a": Count(1, 2), "b": Count(1, 4)})
    ('b', Count(correct=1, total=4))
    """
    return min(groups.items(), key=lambda item: item[1].accuracy)


def weakest_first(groups: Mapping[str, Count]) -> list[str]:
    """Names of groups by accuracy, the lowest first; of equals, in their order.

    >>> weakest_first({"a": Count(3, 4), "b": Count(1, 4)})
    ['b', 'a']
    """
    return sorted(groups, key=lambda name: groups[name].accuracy)
