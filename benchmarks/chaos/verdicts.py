"""Cases and what became of them, done by several processes."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

__all__ = ["Verdict", "spread"]

T = TypeVar("T")


@dataclass(frozen=True)
class Verdict:
    """What became of a case.

    Attributes:
        number: of the case; with the seed it says all of it.
        what: the case in words.
        kind: of failure in a word or two, such as ``traceback``; None where it passed.
        found: what was seen.
    """

    number: int
    what: str
    kind: str | None = None
    found: str = ""


def spread(
    act: Callable[[T], Verdict], cases: Sequence[T], *, jobs: int, until: float = float("inf")
) -> Iterator[Verdict]:
    """Does cases in `jobs` forked processes, in no fixed order; begins none once `until` (monotonic) has passed."""

    def in_time() -> Iterator[int]:
        for index in range(len(cases)):
            if time.monotonic() > until:
                return
            yield index

    _WORK[:] = [partial(act, case) for case in cases]  # forked processes take it over: nothing needs to be pickled
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        # In rounds, because a pool takes all that there is to do at once.
        waiting = in_time()
        running = [pool.apply_async(_do, (index,)) for _, index in zip(range(2 * jobs), waiting, strict=False)]
        while running:
            done = [each for each in running if each.ready()]
            if not done:
                time.sleep(0.005)
            for each in done:
                running.remove(each)
                running += [pool.apply_async(_do, (index,)) for _, index in zip(range(1), waiting, strict=False)]
                yield each.get()


_WORK: list[Callable[[], Verdict]] = []


def _do(index: int) -> Verdict:
    return _WORK[index]()
