"""SIGINT and SIGTERM finish the step, save and say how to resume."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from protoat.training import Interrupted
from protoat.training.signals import StopRequest


@pytest.fixture(autouse=True)
def _heard() -> Iterator[None]:
    """A shell starts background jobs deaf to SIGINT; these tests must hear it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Batches:
    """A loader that sends this process a signal just before a batch is handed out."""

    def __init__(self, small: ModuleType, epoch: int, batch: int, number: int) -> None:
        self.inner = small.loader()
        self.moment = (epoch, batch)
        self.number = number

    def __len__(self) -> int:
        return len(self.inner)

    def set_epoch(self, epoch: int) -> None:
        self.inner.set_epoch(epoch)

    def iterate(self, first: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        epoch = self.inner.epoch  # the last batch moves it on
        for index, batch in enumerate(self.inner.iterate(first), start=first):
            if (epoch, index) == self.moment:
                os.kill(os.getpid(), self.number)
            yield batch


@pytest.mark.parametrize(
    ("method", "batch", "updates", "number"),
    [("pgd", 2, 8, signal.SIGINT), ("free", 1, 14, signal.SIGTERM), ("pgd", 4, 10, signal.SIGTERM)],
)
def test_finishes_the_batch_saves_and_resumes(  # noqa: PLR0917 - fixtures and parameters
    method: str, batch: int, updates: int, number: signal.Signals, tmp_path: Path, small: ModuleType
) -> None:
    options = {"checkpoint_every": None, "epochs": 3}
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt) as caught:
        small.train(method, tmp_path / "stopped", train=Batches(small, 1, batch, number), **options)
    assert isinstance(caught.value, Interrupted) and caught.value.signal == number
    assert str(caught.value) == (
        f"{number.name} after update {updates}, epoch 2 of 3: saved in {tmp_path}/stopped/checkpoints; "
        "run the same command again to resume"
    )
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert max(p.name for p in (tmp_path / "stopped/checkpoints").iterdir()) == f"{updates:08d}"
    small.train(method, tmp_path / "whole", **options)
    small.train(method, tmp_path / "stopped", **options)
    small.assert_same_outcome(tmp_path / "stopped", tmp_path / "whole")


def test_during_the_last_validation_nothing_is_lost(tmp_path: Path, small: ModuleType) -> None:
    def images() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        os.kill(os.getpid(), signal.SIGTERM)
        data = small.digits(200, 260)
        yield data.images.float() / 255, data.labels

    with pytest.raises(Interrupted, match="SIGTERM after update 5, epoch 1 of 1"):
        small.train("pgd", tmp_path, epochs=1, validation=images())
    result = small.train("pgd", tmp_path, epochs=1)
    assert (result.epochs, result.updates, result.best_epoch) == (1, 5, 1)


def test_without_a_folder_it_says_that_nothing_was_saved(small: ModuleType) -> None:
    with pytest.raises(Interrupted, match="nothing was saved"):
        small.train("pgd", None, train=Batches(small, 0, 1, signal.SIGINT))


def test_the_second_signal_acts_at_once() -> None:
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal is None and signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_trains_outside_the_main_thread(small: ModuleType) -> None:
    results = []
    thread = threading.Thread(target=lambda: results.append(small.train("pgd", None, epochs=1)))
    thread.start()
    thread.join()
    assert results[0].updates == 5
