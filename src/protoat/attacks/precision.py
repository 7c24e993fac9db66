"""Runs the forwards of attacks in bfloat16; everything else about them stays float32."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from statistics import median
from typing import Literal, NamedTuple

import torch
from torch import Tensor

AttackPrecision = Literal["fp32", "bf16"]

EXACT = 0.25  # share of an attack's steps, the last ones, that are float32 where its result is to be judged
_ROUNDS = 3
_WORTH = 0.9  # bfloat16 is chosen where its pass takes at most so much of a float32 one


class _Chosen(NamedTuple):
    precision: AttackPrecision = "fp32"
    exact_end: bool = False


_CHOSEN: ContextVar[_Chosen] = ContextVar("attack precision", default=_Chosen())  # noqa: B039 - it cannot change


@contextmanager
def attacks_in(precision: AttackPrecision, *, exact_end: bool = False) -> Iterator[None]:
    """Within it, attacks pass through the network under autocast in `precision`; ball, step, box and loss are float32.

    Args:
        precision: ``"bf16"``, or ``"fp32"``, which leaves passes as the network makes them.
        exact_end: for results that are judged, not trained on: passes without a gradient are float32, and so is the
            last quarter of the steps; a search may screen its queries in bfloat16, see `Screen`.

    An attack whose passes decide anything is float32 as a whole, see `Attack.gradient_steps`, unless it has runs that
    confirm in float32 what they decide, see `Attack.coarse_runs`.

    >>> with attacks_in("bf16"):
    ...     present_precision()
    'bf16'
    """
    token = _CHOSEN.set(_Chosen(precision, exact_end))
    try:
        yield
    finally:
        _CHOSEN.reset(token)


def in_bfloat16(images: Tensor) -> AbstractContextManager[object]:
    """The context of a forward of `images` in bfloat16."""
    return torch.autocast(images.device.type, torch.bfloat16)


def present_precision() -> AttackPrecision:
    """What `attacks_in` has set here."""
    return _CHOSEN.get().precision


def are_results_judged() -> bool:
    """Whether `attacks_in` has said so here."""
    return _CHOSEN.get().exact_end


class Passes:
    """The passes of one attack on one batch: for each, the context in which the network is to be called.

    Args:
        steps: `Attack.gradient_steps`; None makes all passes float32.
        exact: share of the steps, the last ones, that are float32 where results are judged.

    Attributes:
        coarse: whether any of them is to be in bfloat16.
        last_coarse: whether the last one with a gradient was.
    """

    def __init__(self, steps: int | None, exact: float = EXACT) -> None:
        chosen = _CHOSEN.get()
        self.exact_end = chosen.exact_end
        self.exact_from = (1 - exact) * (steps or 0) if chosen.exact_end else torch.inf
        self.coarse = chosen.precision == "bf16" and steps is not None and self.exact_from >= 1
        self.last_coarse = False
        self._done = 0

    def __call__(self, images: Tensor) -> AbstractContextManager[object]:
        """The context for one forward of `images`."""
        if not self.coarse:
            return nullcontext()
        if not images.requires_grad:
            return nullcontext() if self.exact_end else in_bfloat16(images)
        self._done += 1
        self.last_coarse = self._done <= self.exact_from
        return in_bfloat16(images) if self.last_coarse else nullcontext()


def faster_precision(one_pass: Callable[[], object], device: torch.device) -> tuple[AttackPrecision, float]:
    """Which precision an attack's pass is faster in, on this device, and the ratio of bfloat16 to float32.

    Args:
        one_pass: takes the gradient of the network at a batch, once, through an attack.
        device: where it runs.

    >>> faster_precision(lambda: time.sleep(0.001 if present_precision() == "bf16" else 0.01), torch.device("cpu"))[0]
    'bf16'
    """
    seconds: dict[AttackPrecision, list[float]] = {"fp32": [], "bf16": []}
    for turn in range(_ROUNDS + 1):
        for precision in seconds:
            _wait(device)
            started = time.perf_counter()
            with attacks_in(precision):
                one_pass()
            _wait(device)
            seconds[precision] += [time.perf_counter() - started] * (turn > 0)  # the first turn warms up
    ratio = median(seconds["bf16"]) / median(seconds["fp32"])
    return ("bf16" if ratio <= _WORTH else "fp32"), ratio


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
