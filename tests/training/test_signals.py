"""SIGINT and SIGTERM finish the step, save and say how to resume."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
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
    class Images:
        passes = 0

        def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            self.passes += 1
            if self.passes == 2:  # the first only looks at the form of a batch
                os.kill(os.getpid(), signal.SIGTERM)
            data = small.digits(200, 260)
            yield data.images.float() / 255, data.labels

    with pytest.raises(Interrupted, match="SIGTERM after update 5, epoch 1 of 1"):
        small.train("pgd", tmp_path, epochs=1, validation=Images())
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


PROGRAM = """
import os, sys, time
import torch
from torch.utils.data import DataLoader, Dataset
import protoat as pa

class Slow(Dataset):
    def __len__(self):
        return 64
    def __getitem__(self, index):
        time.sleep(0.01)
        return torch.full((1, 2, 2), index / 64), index % 2

if __name__ == "__main__":
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    loader = DataLoader(
        Slow(), 4, shuffle=True, num_workers=2, multiprocessing_context=sys.argv[2], persistent_workers=True
    )
    objective = pa.Objective(pa.methods.Standard(pa.Linf(0.1)))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    print("begins", flush=True)
    pa.fit(net, loader, objective, epochs=int(sys.argv[3]), optimizer=optimizer, out=sys.argv[1], loggers=[])
"""


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="the system tells no sender of a signal")
@pytest.mark.parametrize(
    ("number", "context"),
    [
        (signal.SIGTERM, "fork"),
        *(
            pytest.param(*pair, marks=pytest.mark.slow)
            for pair in [(signal.SIGTERM, "forkserver"), (signal.SIGINT, "spawn")]
        ),
    ],
)
def test_a_signal_to_the_whole_group_loses_no_step(number: signal.Signals, context: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    out = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, str(program), str(out), context, "1000"],
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            while not (out / "metrics.jsonl").exists() or not (out / "metrics.jsonl").read_text():
                assert process.poll() is None
                time.sleep(0.05)
            time.sleep(0.05)  # inside the second epoch
            os.killpg(process.pid, number)
            _, errors = process.communicate(timeout=600)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert f"Interrupted: {number.name} after update" in errors
    assert "killed by signal" not in errors and "exited unexpectedly" not in errors
    saved = max(int(path.name) for path in (out / "checkpoints").iterdir())
    assert f"after update {saved}," in errors
