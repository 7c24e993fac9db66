"""Accuracies over groups of images, and their differences on the same images, with intervals over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy.stats import ttest_1samp
from torch import Tensor

from protoat.errors import UserError

Over = Literal["mean", "least"]
_RESAMPLES = 2000


class Outcome(NamedTuple):
    """What one seed gets right.

    Attributes:
        correct: (N,) bool, which images.
        groups: (N,) int64, the group of each, 0..G-1, such as its mode.
        over: of the accuracies of the groups, the mean, or the least.
        baseline: (N,) bool, what is subtracted; None subtracts nothing.

    Raises:
        ValueError: in use, shapes that do not agree.

    >>> right = torch.tensor([True, True, False, True])
    >>> Outcome(right, torch.tensor([0, 0, 1, 1]), "least").value
    0.5
    >>> Outcome(right, torch.tensor([0, 0, 1, 1]), "least", baseline=~right).value
    0.5
    """

    correct: Tensor
    groups: Tensor
    over: Over = "mean"
    baseline: Tensor | None = None

    @property
    def value(self) -> float:
        """The accuracy, or the difference."""
        return float(self.resampled(np.ones((1, len(self.correct))))[0])

    def resampled(self, weights: np.ndarray) -> np.ndarray:
        """(R,) values, of sets in which each image counts as often as `weights` (R, N) say."""
        number = len(self.correct)
        if self.groups.shape != (number,) or (self.baseline is not None and self.baseline.shape != (number,)):
            raise UserError(f"outcomes, groups and baseline are not of the same {number} images")
        member = torch.nn.functional.one_hot(self.groups).double().numpy()
        member = member[:, member.any(0)]
        totals = weights @ member

        def of(correct: Tensor) -> np.ndarray:
            # A group that a set has no image of says nothing there.
            shares = np.divide(
                weights @ (member * correct.numpy()[:, None]), totals, where=totals > 0, out=totals * np.nan
            )
            return np.nanmean(shares, 1) if self.over == "mean" else np.nanmin(shares, 1)

        return of(self.correct) if self.baseline is None else of(self.correct) - of(self.baseline)


class Estimate(NamedTuple):
    """A mean over seeds.

    Attributes:
        mean: of the seeds.
        deviation: standard deviation of a seed; None of one.
        interval: 95 %.
        p_value: of a paired t-test over seeds, two-sided; None of one seed, of accuracies, or where all seeds agree.
    """

    mean: float
    deviation: float | None
    interval: tuple[float, float]
    p_value: float | None


def estimate(seeds: Sequence[Outcome]) -> Estimate:
    """The mean of seeds that were measured on the same images.

    Its interval is the percentile bootstrap over images; with several seeds Student's over seeds where that is wider,
    because seeds that agree on the same images make the mean no surer than these images are.

    Args:
        seeds: one outcome of each; with a `baseline` of the same seed, pairs.

    Raises:
        ValueError: none, or outcomes on other numbers of images.

    Source: Efron and Tibshirani 1993; paired t-test.

    >>> groups, right = torch.zeros(100, dtype=torch.int64), torch.arange(100)
    >>> pairs = [Outcome(right >= 10 + seed, groups, baseline=right >= 20) for seed in range(3)]
    >>> found = estimate(pairs)
    >>> round(found.mean, 3), [round(end, 2) for end in found.interval], round(found.p_value, 4)
    (0.09, [0.04, 0.15], 0.0041)
    """
    if len({len(each.correct) for each in seeds}) != 1:
        raise UserError("an estimate needs seeds that were measured on the same images")
    number = len(seeds[0].correct)
    draws = np.random.default_rng(0).multinomial(number, np.full(number, 1 / number), _RESAMPLES).astype(float)
    low, high = (
        float(end) for end in np.quantile(np.mean([each.resampled(draws) for each in seeds], 0), [0.025, 0.975])
    )
    values = [each.value for each in seeds]
    mean, deviation = fmean(values), stdev(values) if len(values) > 1 else None
    if not deviation:
        return Estimate(mean, deviation, (low, high), None)
    test = ttest_1samp(values, 0)
    over_seeds = test.confidence_interval()
    paired = all(each.baseline is not None for each in seeds)
    interval = min(low, float(over_seeds.low)), max(high, float(over_seeds.high))
    return Estimate(mean, deviation, interval, float(test.pvalue) if paired else None)
