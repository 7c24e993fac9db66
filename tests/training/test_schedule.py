"""Learning-rate schedules against loops written from their definitions, and against torch's schedulers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from protoat.training import Constant, Cyclic, Schedule, StepDecay, WarmupCosine


def rates_of(scheduler: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler], lr: float, n: int):
    """Learning rate of each of n updates under one of torch's schedulers, stepped after every update."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stepper = scheduler(optimizer)
        rates = []
        for _ in range(n):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            stepper.step()
    return rates


def rates(schedule: Schedule, lr: float, epochs: int, per_epoch: int) -> list[float]:
    total = epochs * per_epoch
    return [schedule.lr(lr, update, total, per_epoch) for update in range(total)]


def test_constant() -> None:
    assert rates(Constant(), 0.3, 2, 3) == [0.3] * 6


@given(
    st.lists(st.integers(1, 12), unique=True, max_size=4).map(sorted),
    st.floats(0.05, 0.9),
    st.integers(1, 12),
    st.integers(1, 5),
)
def test_step_decay(milestones: list[int], factor: float, epochs: int, per_epoch: int) -> None:
    expected, lr = [], 0.1
    for epoch in range(epochs):
        if epoch in milestones:
            lr *= factor
        expected += [lr] * per_epoch
    found = rates(StepDecay(milestones, factor=factor), 0.1, epochs, per_epoch)
    assert found == pytest.approx(expected, rel=1e-12)
    torchs = rates_of(
        lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [m * per_epoch for m in milestones], factor),
        0.1,
        epochs * per_epoch,
    )
    assert found == pytest.approx(torchs, rel=1e-9)


@given(st.integers(1, 8), st.integers(1, 9), st.floats(0.05, 0.95), st.floats(0, 0.1))
def test_cyclic(epochs: int, per_epoch: int, peak: float, lr_min: float) -> None:
    total = epochs * per_epoch
    expected = []
    for t in range(total):
        up, down = total * peak, total - total * peak
        rising, falling = t / up, (total - t) / down
        expected.append(lr_min + (0.2 - lr_min) * (rising if t <= up else falling))
    found = rates(Cyclic(lr_min=lr_min, peak=peak), 0.2, epochs, per_epoch)
    assert found == pytest.approx(expected, rel=1e-12)
    torchs = rates_of(
        lambda o: torch.optim.lr_scheduler.CyclicLR(
            o, lr_min, 0.2, step_size_up=peak * total, step_size_down=(1 - peak) * total, cycle_momentum=False
        ),
        lr_min,
        total,
    )
    assert found == pytest.approx(torchs, rel=1e-9, abs=1e-9)


def test_golden_values_of_the_cycle() -> None:
    cycle = Cyclic(lr_min=0.0)
    assert cycle.lr(0.2, 0, 15 * 391, 391) == 0
    assert cycle.lr(0.2, 1466.25, 15 * 391, 391) == pytest.approx(0.1)
    assert cycle.lr(0.2, 2932.5, 15 * 391, 391) == pytest.approx(0.2)


@given(st.integers(2, 12), st.integers(1, 9), st.integers(0, 4), st.floats(0, 0.1), st.floats(0, 0.1))
def test_warmup_and_cosine(epochs: int, per_epoch: int, warmup: int, start: float, lr_min: float) -> None:
    warmup = min(warmup, epochs - 1)
    total, first = epochs * per_epoch, warmup * per_epoch
    expected = []
    for step in range(1, total + 1):  # ACL moves its scheduler before each step
        if step < first:
            expected.append(start + (0.3 - start) * step / first)
        else:
            expected.append(lr_min + (0.3 - lr_min) * 0.5 * (1 + math.cos((step - first) / (total - first) * math.pi)))
    found = rates(WarmupCosine(warmup_epochs=warmup, lr_start=start, lr_min=lr_min), 0.3, epochs, per_epoch)
    assert found == pytest.approx(expected, rel=1e-12)
    assert found[-1] == pytest.approx(lr_min, abs=1e-12)
    cosine = rates_of(
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, total - first, lr_min), 0.3, total - first
    )
    assert found[first:-1] == pytest.approx(cosine[1:], rel=1e-9)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: StepDecay([3, 2]), "ascending"),
        (lambda: StepDecay([0]), "positive"),
        (lambda: StepDecay([2, 2]), "ascending"),
        (lambda: StepDecay([2], factor=10), "outside"),
        (lambda: Cyclic(lr_min=-1), "negative"),
        (lambda: Cyclic(peak=1.0), "outside"),
        (lambda: Cyclic(lr_min=0.1).lr(0.01, 0, 10, 1), "below lr_min"),
        (lambda: WarmupCosine(warmup_epochs=-1), "negative"),
        (lambda: WarmupCosine(warmup_epochs=3).lr(0.1, 0, 30, 10), "leaves nothing of 3 epochs"),
        (lambda: WarmupCosine(warmup_epochs=1, lr_start=0.2).lr(0.1, 0, 30, 10), "below lr_start=0.2"),
    ],
)
def test_bad_values(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
