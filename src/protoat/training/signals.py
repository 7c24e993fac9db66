"""SIGINT and SIGTERM: noted until the step is saved, and kept from the workers of a `DataLoader` until then."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import resource_tracker
from types import FrameType
from typing import Any

from torch.utils.data import DataLoader


class StopRequest:
    """While entered, the first SIGINT or SIGTERM is only noted; the same signal again acts as it would outside.

    Handlers are put back on leaving. A signal that was ignored stays ignored, as under nohup. Outside the main thread,
    where Python allows no handlers, nothing is caught.

    Attributes:
        signal: the signal that arrived, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._note) or signal.SIG_DFL
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        signal.signal(number, self._previous[number])


@contextmanager
def workers_spared(loader: Any) -> Iterator[None]:
    """Workers that `loader` starts in this context obey its own process only, which answers signals for all.

    A batch system ends a job by SIGTERM to each of its processes. A worker that dies of it takes the step with it that
    its parent wants to finish and save.
    """
    source = getattr(loader, "base_dataloader", loader)  # Accelerate's loaders hold another
    if not isinstance(source, DataLoader) or not getattr(source, "num_workers", 0):
        yield
        return
    own = source.worker_init_fn
    source.worker_init_fn = partial(_begin_spared, own)
    try:
        yield
    finally:
        source.worker_init_fn = own


@contextmanager
def helpers_spared() -> Iterator[None]:
    """Processes begun in this context, such as the server that forks workers, see no SIGINT or SIGTERM; ours will.

    A blocked signal stays blocked in what a process starts. Python's resource tracker, which the first semaphore of
    `forkserver` and `spawn` would start here, unblocks both behind it, so it is started before.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_spared(own: Callable[[int], None] | None, worker: int) -> None:
    """Runs at the start of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        parent = multiprocessing.parent_process()  # not the server that may have forked this one
        threading.Thread(target=_end_with, args=(parent and parent.pid,), daemon=True).start()
    if own is not None:
        own(worker)


def _end_with(parent: int | None) -> None:
    """Waits for the SIGTERM by which the loader itself ends a worker; any other is for the parent to answer."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
