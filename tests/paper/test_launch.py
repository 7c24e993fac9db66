"""Many tasks: those that fail, those that share a start, those that are interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from protoat.paper import executors
from protoat.paper.job import Job, Task
from protoat.paper.laboratory import finished
from protoat.paper.launch import launch
from protoat.runs import cores as cores_module
from protoat.runs.cores import share_of_cores
from protoat.training import Interrupted
from tests.whole import edit

SHORT = {"epochs": 1, "validation_size": 0, "method": {"init_args": {"steps": 1}}, "schedule": None}


def task(name: str, lr: float = 0.01, seed: int = 0, start: Job | None = None) -> Task:
    changes = {**SHORT, "optimizer": {"init_args": {"lr": lr}}, "seed": seed}
    return Task(Job(name, ("digits",), changes, start), ("clean",), 20)


@pytest.fixture
def acl() -> Job:
    return Job("acl", ("digits-acl",), {key: SHORT[key] for key in ("epochs", "method", "schedule")})


@pytest.mark.filterwarnings("ignore:.*gradients .* are not finite:RuntimeWarning")
@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_task_that_fails_is_reported_and_the_rest_goes_on(tmp_path: Path, acl: Job, jobs: int) -> None:
    bad, unlearnt = task("bad", lr=-1.0), task("unlearnt", lr=1e30)
    good = [task("good", seed=1), task("from-acl", start=acl), task("too-from-acl", seed=2, start=acl)]
    said: list[str] = []
    failures = launch([bad, unlearnt, *good], tmp_path, jobs=jobs, say=said.append)
    assert {failure.task for failure in failures} == {bad, unlearnt}
    errors = {failure.task.job.name: failure.error for failure in failures}
    assert errors["bad"].startswith("the optimizer cannot be built: Invalid learning rate: -1.0")
    assert "nan" in errors["unlearnt"] or "inf" in errors["unlearnt"]
    assert all(finished(each, tmp_path) for each in good)
    sessions = [json.loads(path.read_text())["sessions"] for path in tmp_path.glob("acl-*/run.json")]
    assert [len(each) for each in sessions] == [1]
    assert said[:2] == ["to do: acl, bad, unlearnt, good, from-acl, too-from-acl", "acl: 1 of 6"]
    if jobs > 1:
        log = Path(errors["bad"].partition("log: ")[2])
        assert log.is_relative_to(tmp_path / ".jobs") and log.exists()
    said.clear()
    launch(good, tmp_path, jobs=jobs, say=said.append)
    assert said == []


@pytest.mark.parametrize(("variable", "jobs", "threads"), [(None, 2, 1), (None, 3, 1), ("3", 2, 2)])
def test_processes_share_the_cores_unless_the_user_says_otherwise(
    variable: str | None, jobs: int, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    found: list[tuple[int, int | None]] = []
    monkeypatch.setattr(executors, "attempt", lambda *_: found.append((torch.get_num_threads(), share_of_cores())))
    monkeypatch.setattr("submitit.LocalExecutor.submit", lambda _, work: work() or SimpleNamespace(done=bool))
    monkeypatch.setattr("signal.signal", lambda *_: signal.SIG_DFL)
    monkeypatch.setattr(cores_module, "cores", lambda: 2)
    torch.set_num_threads(2)  # as torch has it on two cores
    processes = executors.EXECUTORS["local"](tmp_path, jobs, {})
    assert processes is not None
    processes.submit(task("any"))
    assert found == [(threads, None if variable else 1)]


@pytest.mark.parametrize("store", ["/proc/runs", "/dev/null/runs"])
def test_a_store_that_cannot_be_written_is_said_before_any_task(store: str) -> None:
    said: list[str] = []
    with pytest.raises(ValueError, match=Path(store).parts[1]):
        launch([task("one")], Path(store), say=said.append)
    assert said == []


def test_what_starts_from_a_failed_run_is_not_begun(tmp_path: Path) -> None:
    broken = Job("acl", ("digits-acl",), {"optimizer": {"init_args": {"lr": -1.0}}})
    tasks = [task("one", start=broken), task("two", seed=1, start=broken), task("three")]
    failures = launch(tasks, tmp_path)
    assert [failure.task for failure in failures] == tasks[:2]
    assert all(failure.error == "it starts from acl, which failed" for failure in failures)
    assert finished(tasks[2], tmp_path)


def test_a_damaged_record_is_a_failure_of_its_task_only(tmp_path: Path) -> None:
    one, two = task("one"), task("two", seed=1)
    launch([one], tmp_path)
    edit(one.job.folder(tmp_path) / "evaluation.json", "{")
    failures = launch([one, two], tmp_path)
    assert [failure.task for failure in failures] == [one]
    assert "evaluation.json is damaged" in failures[0].error
    assert finished(two, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"executor": "slrm"}, "executor 'slrm' is unknown; did you mean 'slurm'"),
        ({"jobs": 0}, "jobs=0 must be at least 1"),
        ({"options": {"partition": "gpu"}}, "executor local takes no options"),
        ({"executor": "slurm", "options": {"partitoin": "gpu"}}, "did you mean 'partition'"),
    ],
)
def test_what_cannot_be_launched_is_refused(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        launch([task("one")], tmp_path, **options)  # type: ignore[arg-type]
    assert list(tmp_path.glob("one-*")) == []


LONG = """
import signal
import sys
from pathlib import Path
from protoat.paper.job import Job, Task
from protoat.paper.launch import launch
store, jobs = Path(sys.argv[1]), int(sys.argv[2])
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is born deaf to it
long = {"validation_size": 0, "schedule": None, "epochs": 10000}
tasks = [Task(Job(f"long-{seed}", ("digits",), {**long, "seed": seed}), ("clean",), 20) for seed in range(2)]
launch(tasks, store, jobs=jobs, say=print)
"""


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_saves_what_runs(tmp_path: Path, jobs: int, number: signal.Signals) -> None:
    """The signal goes to the whole group, as a terminal sends Ctrl-C: what runs must save before it ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", LONG, str(tmp_path), str(jobs)], start_new_session=True, stderr=subprocess.PIPE
    )
    try:
        while len(list(tmp_path.glob("long-*/metrics.jsonl"))) < jobs and process.poll() is None:
            time.sleep(0.2)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        _, errors = process.communicate(timeout=600)
        assert b"interrupted; the same command goes on where it stopped" in errors
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)  # nobody is left
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    folders = sorted(tmp_path.glob("long-*"))
    assert len(folders) == jobs
    for folder in folders:  # checkpoints are called after their update; all else in the first epoch is of update 0
        assert max(int(path.name) for path in folder.glob("checkpoints/*")) > 0


def test_nothing_to_do_asks_no_executor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch([task("one")], tmp_path)
    monkeypatch.setattr("protoat.paper.launch.EXECUTORS", {"local": None})
    assert launch([task("one")], tmp_path) == []


def test_an_interruption_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("protoat.paper.executors.run_task", interrupted)
    with pytest.raises(Interrupted, match="the same command goes on"):
        launch([task("one")], tmp_path)
