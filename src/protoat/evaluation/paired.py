"""Paired statistics of two measurements on the same images: McNemar's test and its interval."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest
from torch import Tensor

from protoat.errors import UserError


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
