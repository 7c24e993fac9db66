"""Launches many tasks in the order of their dependencies and collects failures."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from protoat.errors import UserError, in_a_line
from protoat.names import nearest
from protoat.paper.executors import EXECUTORS, GO_ON, Processes, Slurm, Submitted, attempt
from protoat.paper.job import Task
from protoat.paper.laboratory import finished
from protoat.storage.path_checks import check_folder
from protoat.training import Interrupted
from protoat.training.signals import StopRequest

logger = logging.getLogger(__name__)


class Failure(NamedTuple):
    """A task that could not be carried out, and why, in one line."""

    task: Task
    error: str


def launch(
    tasks: Sequence[Task],
    store: Path,
    *,
    executor: str = "local",
    jobs: int = 1,
    options: Mapping[str, str] | None = None,
    say: Callable[[str], None] = logger.info,
) -> list[Failure]:
    """Carries out every task that is not finished; where one fails, the rest goes on.

    What several tasks start from is done once, before them. Ctrl-C lets each running task save what it has, and ends.

    Args:
        tasks: in the order in which they begin.
        store: the folder of run folders.
        executor: ``"local"``, in this process where `jobs` is 1; or ``"slurm"``.
        jobs: how many tasks run at a time; of Slurm, how many are in its queue.
        options: of Slurm, as for ``sbatch``: partition, time (minutes; one that runs out is queued again), mem,
            cpus_per_task, gpus_per_node, account, qos, constraint.
        say: is told in a line which runs there are to do, and what begins and ends.

    Raises:
        ValueError: no such executor or option, no Slurm, or a store that cannot be written.
        Interrupted: by SIGINT or SIGTERM; nothing that was saved is lost.
    """
    options = options or {}
    check_launch(executor, jobs, options)
    store = store.absolute()
    waiting, failures = _open(tasks, store)
    if not waiting:
        return failures
    check_folder(store, "store")
    say(f"to do: {', '.join(task.job.name for task in waiting)}")
    where = EXECUTORS[executor](store, jobs, options)
    run = _Launch(where, store, jobs, say, waiting)
    with nullcontext() if where is None else StopRequest() as stop:
        try:
            while run.step():
                if stop is not None and stop.signal is not None:
                    run.cancel()
                    raise Interrupted(f"interrupted; {GO_ON}", stop.signal)
                time.sleep(0.2 if run.running else 0)
        except KeyboardInterrupt as interruption:
            number = getattr(interruption, "signal", signal.SIGINT)
            raise Interrupted(f"interrupted; {GO_ON}", number) from None
    asked = set(tasks)
    return [*failures, *(failure for failure in run.failures if failure.task in asked)]


def check_launch(executor: str, jobs: int, options: Mapping[str, str]) -> None:
    """Refuses what no launch could follow, also where there is nothing to do.

    Raises:
        ValueError: no such executor, fewer than one task at a time, or options where none are taken.
    """
    if jobs < 1:
        raise UserError(f"jobs={jobs} must be at least 1")
    if executor not in EXECUTORS:
        raise UserError(f"executor {executor!r} is unknown; {nearest(executor, EXECUTORS)}")
    if executor == "local" and options:
        raise UserError(f"executor local takes no options, and {', '.join(options)} came; they are for slurm")


def _open(tasks: Sequence[Task], store: Path) -> tuple[list[Task], list[Failure]]:
    """Tasks that are not finished, after what they start from, each once; and those of which that cannot be told."""
    found: dict[Task, None] = {}
    failures = []
    for task in dict.fromkeys(tasks):
        try:
            if finished(task, store) is None:
                start = task.job.start
                while start is not None and finished(Task(start), store) is None:
                    found = {Task(start): None, **found}
                    start = start.start
                found[task] = None
        except UserError as error:
            failures.append(Failure(task, in_a_line(error)))
    return list(found), failures


@dataclass
class _Launch:
    """What waits, runs and has failed."""

    where: Processes | Slurm | None
    store: Path
    jobs: int
    say: Callable[[str], None]
    waiting: list[Task]

    def __post_init__(self) -> None:
        self.total = len(self.waiting)
        self.running: dict[Task, tuple[Submitted, float]] = {}
        self.failures: list[Failure] = []
        self.seconds: list[float] = []

    def step(self) -> bool:
        """Takes up what has ended, begins what may begin; False when nothing is left."""
        for task, (handle, started) in list(self.running.items()):
            if handle.done():
                del self.running[task]
                self._ended(task, handle.error(), time.monotonic() - started)
        while len(self.running) < self.jobs and (following := self._next()) is not None:
            self.waiting.remove(following)
            self.say(f"{following.job.name}: {self.total - len(self.waiting)} of {self.total}")
            started = time.monotonic()
            if self.where is None:
                self._ended(following, attempt(following, self.store), time.monotonic() - started)
                break
            self.running[following] = self.where.submit(following), started
        return bool(self.running or self.waiting)

    def _next(self) -> Task | None:
        """The first task that need not wait for one that runs; those that cannot begin any more are given up."""
        runs = {task.job.identity for task in self.running}
        failed = {failure.task.job.identity: failure.task.job.name for failure in self.failures}
        for task in list(self.waiting):
            start = task.job.start
            if start is not None and start.identity in failed:
                self.waiting.remove(task)
                self._ended(task, f"it starts from {failed[start.identity]}, which failed", 0.0)
            elif task.job.identity not in runs and (start is None or start.identity not in runs):
                return task
        return None

    def _ended(self, task: Task, error: str | None, seconds: float) -> None:
        if error is None:
            self.seconds.append(seconds)
            left = len(self.waiting) * sum(self.seconds) / len(self.seconds) / self.jobs
            told = f"; about {left:.0f} s left, if the others take as long" if self.waiting else ""
            self.say(f"{task.job.name}: done in {seconds:.0f} s{told}")
        else:
            self.say(f"{task.job.name}: failed: {error}")
            self.failures.append(Failure(task, error))

    def cancel(self) -> None:
        """Stops what runs and waits for it to end."""
        self.say(f"stopping {len(self.running)} tasks, each of which saves what it has")
        handles = [handle for handle, _ in self.running.values()]
        for handle in handles:
            handle.cancel()
        while not all(handle.done() for handle in handles):
            time.sleep(0.2)
