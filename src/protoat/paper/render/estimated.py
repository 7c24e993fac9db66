"""Estimates over seeds as text cells: balanced accuracies, gains over a baseline, and shares of a ceiling."""

from __future__ import annotations

from collections.abc import Sequence

from protoat.evaluation.estimate import Outcome, estimate
from protoat.evaluation.statistics import percentage

NO_CEILING = "no headroom shown"


def estimated(outcomes: Sequence[Outcome], ceilings: Sequence[Outcome] = ()) -> str:
    """A mean with its interval in per cent; a difference in points, with its sign and p; or a share of a ceiling.

    Args:
        outcomes: one of each seed.
        ceilings: those that it is to be a share of.

    >>> import torch
    >>> groups, right = torch.zeros(100, dtype=torch.int64), torch.arange(100)
    >>> estimated([Outcome(right < 90, groups)])
    '90.0 [84.0, 95.0]'
    >>> gains = [Outcome(right < 90, groups, baseline=right < 80)]
    >>> estimated(gains), estimated(gains, [Outcome(right < 95, groups, baseline=right < 80)])
    ('+10.0 [5.0, 17.0]', '67 %')
    """
    found = estimate(outcomes)
    if ceilings:
        ceiling = estimate(ceilings)
        return f"{100 * found.mean / ceiling.mean:.0f} %" if ceiling.interval[0] > 0 else NO_CEILING
    deviation = "" if found.deviation is None else f" ± {100 * found.deviation:.1f}"
    if outcomes[0].baseline is None:
        return percentage(found.mean, found.interval, beside=deviation)
    low, high = (100 * end for end in found.interval)
    test = "" if found.p_value is None else f", p = {found.p_value:.2g}"
    return f"{100 * found.mean:+.1f}{deviation} [{low:.1f}, {high:.1f}]{test}"
