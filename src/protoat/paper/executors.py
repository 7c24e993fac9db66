"""Executors of tasks: this process, a process pool, or Slurm."""

from __future__ import annotations

import logging
import os
import platform
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import cycle
from pathlib import Path
from typing import Any

import torch

from protoat.errors import UserError, in_a_line, on_disk
from protoat.names import nearest
from protoat.paper.job import Task
from protoat.paper.laboratory import run_task
from protoat.recipes.own_code import trusted, trusting
from protoat.runs.cores import choosing_threads, share_of_cores, threads_are_set
from protoat.storage.files import check_no_links, make_folder

GO_ON = "the same command goes on where it stopped"
_MINUTES = {"local": 60 * 24 * 365, "slurm": 60 * 24}


def attempt(task: Task, store: Path) -> str | None:
    """Carries out a task; returns why it could not be done, in one line."""
    try:
        run_task(task, store)
    except UserError as error:
        return in_a_line(error)
    except Exception as error:
        traceback.print_exc()  # a defect of the program keeps its traceback
        return f"{type(error).__name__}: {in_a_line(error)}"
    return None


@dataclass(frozen=True)
class _Work:
    """What a process of submitit does; when its time runs out under Slurm, it is queued again.

    Attributes:
        jobs: processes that share the cores it may use; None where the user has said how many threads each takes.
    """

    task: Task
    store: Path
    jobs: int | None
    trust: tuple[str, ...] = field(default_factory=lambda: tuple(trusted()))

    def __call__(self) -> str | None:
        logging.basicConfig(format="%(message)s", stream=sys.stderr)
        logging.getLogger("protoat").setLevel(logging.INFO)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            with trusting(self.trust), choosing_threads(self.jobs):
                torch.set_num_threads(share_of_cores() or torch.get_num_threads())
                return attempt(self.task, self.store)
        except KeyboardInterrupt:
            return f"interrupted; {GO_ON}"

    def checkpoint(self) -> Any:
        """The same again: what was saved is gone on with."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@dataclass(frozen=True)
class Submitted:
    """A task that goes on elsewhere, as a job of submitit.

    A file with what it returned appears when it has ended by itself.
    """

    job: Any
    ended: Callable[[], bool]
    stop: Callable[[], None]
    patience: float = 0.0

    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.ended()

    def error(self) -> str | None:
        """Of one that has ended: why it could not be carried out, or None."""
        waited_until = time.monotonic() + self.patience
        while not self.job.paths.result_pickle.exists() and time.monotonic() < waited_until:
            time.sleep(0.2)
        try:
            reason: str | None = self.job.result() if self.job.paths.result_pickle.exists() else self._last_line()
        except Exception:  # submitit has many kinds; what it knows of the matter is in the log
            reason = self._last_line()
        return reason if reason is None else f"{reason}; log: {self.job.paths.stderr}"

    def _last_line(self) -> str:
        lines = [line.strip() for line in (self.job.stderr() or "").splitlines() if line.strip()]
        return f"its process was ended{f', its last line was: {lines[-1]}' if lines else ''}"

    def cancel(self) -> None:
        """Asks it to stop so that it can go on later."""
        if not self.done():
            self.stop()


class Processes:
    """Carries out tasks in processes of this machine, which share its cores and take turns with its GPUs."""

    def __init__(self, store: Path, jobs: int) -> None:
        from submitit import LocalExecutor

        self.store = store
        self.executor = LocalExecutor(_logs(store))
        self.executor.update_parameters(timeout_min=_MINUTES["local"])
        self.jobs = None if threads_are_set() else jobs
        said = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        count = torch.cuda.device_count()
        self.gpus = cycle(map(int, said) if all(map(str.isdigit, said)) else range(count)) if count else None

    def submit(self, task: Task) -> Submitted:
        """Begins with a task."""
        if self.gpus is not None:  # else submitit would hide them
            self.executor.update_parameters(gpus_per_node=1, visible_gpus=(next(self.gpus),))
        # The terminal sends Ctrl-C to all processes, and submitit would then kill what is still saving. So these are
        # deaf to it, and are told to end by SIGTERM.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            job = self.executor.submit(_Work(task, self.store, self.jobs))
        finally:
            signal.signal(signal.SIGINT, before)
        return Submitted(job, job.done, lambda: os.kill(int(job.job_id), signal.SIGTERM))


class Slurm:
    """Carries out tasks as jobs of Slurm; store, data and Python must be where its nodes see them."""

    def __init__(self, store: Path, options: Mapping[str, str]) -> None:
        from submitit import SlurmExecutor

        self.store = store
        known = SlurmExecutor._valid_parameters()
        if unknown := [name for name in options if name not in known]:
            raise UserError(f"executor slurm has no option {unknown[0]!r}; {nearest(unknown[0], known)}")
        if SlurmExecutor.affinity() < 0:
            raise UserError("Slurm is not here: there is no srun; log in where it is, or choose the executor local")
        self.executor = SlurmExecutor(_logs(store), max_num_timeout=1000)
        given = {name: int(value) if value.isdigit() else value for name, value in options.items()}
        self.executor.update_parameters(**{"job_name": "protoat", "time": _MINUTES["slurm"], **given})
        self.queue: set[str] = set()
        self.asked = float("-inf")

    def submit(self, task: Task) -> Submitted:
        """Begins with a task."""
        job = self.executor.submit(_Work(task, self.store, None if threads_are_set() else 1))
        since = time.monotonic()
        return Submitted(job, lambda: self._gone(job, since), lambda: job.cancel(check=False), patience=15)

    def _gone(self, job: Any, since: float) -> bool:
        """Whether a job has left the queue, which is looked at twice a minute."""
        if job.paths.result_pickle.exists():
            return True
        if self.asked < max(since, time.monotonic() - 30):
            self.asked = time.monotonic()
            found = subprocess.run(["squeue", "--me", "-h", "-o", "%A"], capture_output=True, text=True, check=False)
            if found.returncode:  # the controller may be away for a while
                self.queue.add(job.job_id)
            else:
                self.queue = set(found.stdout.split())
        return job.job_id not in self.queue


def _logs(store: Path) -> Path:
    """A new folder, since numbers of processes come again; `protoat gc` reads off its name whose it is."""
    folder = store / ".jobs" / f"{datetime.now():%Y%m%d-%H%M%S}-{platform.node()}-{os.getpid()}"
    with on_disk(f"make {folder}"):
        make_folder(folder, within=store)
        check_no_links(folder, within=store)
    return folder


# By name, from store, number of jobs and options; None carries tasks out in this process.
EXECUTORS: dict[str, Callable[[Path, int, Mapping[str, str]], Processes | Slurm | None]] = {
    "local": lambda store, jobs, options: None if jobs == 1 else Processes(store, jobs),
    "slurm": lambda store, jobs, options: Slurm(store, options),
}
