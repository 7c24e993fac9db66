"""On how many threads a command computes where nobody has said: the fewest that are about the fastest, by timed passes.

Sums are taken in another order on another number of threads, so results differ in the last bits. Hence the number is
chosen once for a run or a measurement, stored with it, and taken again when it goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch
from accelerate import Accelerator, PartialState
from torch import Tensor, nn

from protoat.attacks.mode import attacking
from protoat.errors import NoGradientError
from protoat.evaluation.micro_batches import MicroBatched
from protoat.functional.forward import output_of
from protoat.functional.gradients import gradient_of
from protoat.functional.preserve import preserve_random_state
from protoat.runs.cores import cores, share_of_cores

logger = logging.getLogger(__name__)

_WORTH = 1.1  # of the numbers that take at most so much of the least time, the fewest are chosen
_PASSES, _SECONDS = 5, 1.0  # that a number of threads is timed for, at most


@contextmanager
def on_fitting_threads(
    network: nn.Module, images: Tensor, processes: Accelerator | PartialState, *, kept: int | None = None
) -> Iterator[int | None]:
    """Within it torch computes on as many threads as suit a network, if `choosing_threads` asks for it.

    Nothing is chosen for an accelerator, or for one of several processes, whose launcher has shared out the cores.

    Args:
        network: images -> `Output` or logits, on the CPU; it is as before afterwards.
        images: (B, ...) a batch as large as those to come.
        processes: what it will run on.
        kept: the number that what goes on here began with, taken where there are so many cores.

    Yields:
        The number; None where it is not chosen.
    """
    most = share_of_cores()
    if most is None or processes.device.type != "cpu" or processes.num_processes > 1:
        yield None
        return
    before = torch.get_num_threads()
    try:
        chosen = kept if kept is not None and kept <= cores() else _fitting(network, images, most)
        torch.set_num_threads(chosen)
        yield chosen
    finally:
        torch.set_num_threads(before)


def _fitting(network: nn.Module, images: Tensor, most: int) -> int:
    if most == 1:
        return 1
    model = MicroBatched(network)

    def seconds(threads: int) -> float:
        torch.set_num_threads(threads)
        return model.retrying(lambda: _least_time(lambda: _pass(model, images)), len(images))

    chosen, times = fewest_fast(seconds, most)
    told = ", ".join(f"{1e3 * took:.3g} ms on {threads}" for threads, took in times.items())
    logger.info("threads: %d; forward and backward of %d images take %s", chosen, len(images), told)
    return chosen


def fewest_fast(seconds: Callable[[int], float], most: int) -> tuple[int, dict[int, float]]:
    """The fewest of 1, 2, 4, ... and `most` threads that take at most a tenth longer than the fastest; all times.

    >>> fewest_fast({1: 8.0, 2: 4.1, 4: 2.2, 6: 2.1}.__getitem__, 6)
    (4, {1: 8.0, 2: 4.1, 4: 2.2, 6: 2.1})
    """
    numbers = [2**power for power in range(most.bit_length()) if 2**power < most]
    times = {threads: seconds(threads) for threads in (*numbers, most)}
    enough = _WORTH * min(times.values())
    return next(threads for threads, took in times.items() if took <= enough), times


def _least_time(work: Callable[[], object]) -> float:
    """The least of a few times; other work on the machine, and the first pass, only add."""
    times: list[float] = []
    while len(times) < _PASSES and sum(times) < _SECONDS:
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def _pass(network: nn.Module, images: Tensor) -> None:
    """A forward and, where there is one, the backward to the images."""
    with preserve_random_state(images.device), attacking(network), torch.enable_grad():
        leaf = images.clone().requires_grad_()
        logits = output_of(network, leaf).logits
        with suppress(NoGradientError):
            gradient_of(logits.sum(), leaf)
