"""Tasks as jobs of a real Slurm: ``launch`` fills its cells, reports what fails, and stops what runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from protoat.paper.job import Job, Task
from protoat.paper.laboratory import finished
from protoat.paper.launch import launch
from tests.slurm.cluster import cluster, why_not

pytestmark = pytest.mark.slow

SHORT = {"epochs": 1, "validation_size": 0, "schedule": None}
LONG = """
import signal
import sys
from pathlib import Path
from protoat.paper.job import Job, Task
from protoat.paper.launch import launch
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is born deaf to it
long = {"validation_size": 0, "schedule": None, "epochs": 10000}
tasks = [Task(Job(f"long-{seed}", ("digits",), {**long, "seed": seed}), ("clean",), 20) for seed in range(2)]
launch(tasks, Path(sys.argv[1]), executor="slurm", jobs=2, options={"cpus_per_task": sys.argv[2]})
"""


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    if reason := why_not():
        pytest.skip(reason)
    with cluster() as environment:
        yield environment


def in_queue(environment: dict[str, str]) -> list[str]:
    shown = subprocess.run(
        ["squeue", "-h", "-o", "%T"], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    return shown.stdout.split()


def test_two_cells_and_one_that_fails(slurm: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", slurm["SLURM_CONF"])
    jobs = [Job(f"seed-{seed}", ("digits",), {**SHORT, "seed": seed}) for seed in range(2)]
    cells = [Task(job, ("clean", "pgd10"), 50) for job in jobs]
    bad = Task(Job("bad", ("digits",), {**SHORT, "optimizer": {"init_args": {"lr": -1.0}}}), ("clean",), 50)
    failures = launch([bad, *cells], tmp_path, executor="slurm", jobs=3, options={"cpus_per_task": "1", "time": "10"})
    assert [failure.task for failure in failures] == [bad]
    assert failures[0].error.startswith("the optimizer cannot be built: Invalid learning rate: -1.0")
    for cell in cells:
        run = finished(cell, tmp_path)
        assert run is not None
        assert run.evaluation is not None
        assert run.evaluation["pgd10"].count.total == 50
        assert any("submitit" in word for word in run.facts["sessions"][0]["command"])
    assert launch(cells, tmp_path, executor="slurm") == []
    assert len(list((tmp_path / ".jobs").iterdir())) == 1  # the second call submitted nothing


def test_an_interruption_cancels_what_runs_and_what_waits(slurm: dict[str, str], tmp_path: Path) -> None:
    """Each job asks for all cores, so that one runs and one waits."""
    command = [sys.executable, "-c", LONG, str(tmp_path), str(os.cpu_count())]
    process = subprocess.Popen(command, env=os.environ | slurm, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 240
        while not list(tmp_path.glob("long-0*/metrics.jsonl")) and time.monotonic() < deadline:
            time.sleep(0.5)
        assert sorted(in_queue(slurm)) == ["PENDING", "RUNNING"]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=600)
        assert b"interrupted; the same command goes on where it stopped" in errors
    finally:
        process.kill()
        process.wait()
    assert {"PENDING", "RUNNING"}.isdisjoint(in_queue(slurm))
    (folder,) = tmp_path.glob("long-*")
    assert max(int(path.name) for path in folder.glob("checkpoints/*")) > 0
