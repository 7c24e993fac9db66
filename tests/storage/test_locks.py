"""One process at a time writes into a folder of records, whatever command it runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

from protoat.cli import main
from protoat.paper.job import Job, Task
from protoat.paper.laboratory import run_task
from protoat.recipes.reading import read_recipe
from protoat.runs.train import train
from protoat.storage.locks import LOCK, home, is_at_work, working_on
from protoat.training import DiskError

SHORT = ["--epochs", "1", "--validation_size", "0", "--method.steps", "1", "--schedule", "none"]
HOLD = """
import sys, time
from pathlib import Path
from protoat.storage.locks import working_on
with working_on(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@contextmanager
def held_elsewhere(folder: Path, seconds: float = 300.0) -> Iterator[subprocess.Popen[str]]:
    """Another process holds the lock of a folder."""
    command = [sys.executable, "-c", HOLD, str(folder), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(read_recipe("digits-2", SHORT), folder, progress=False)
    return folder


def test_it_can_be_held_again_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    with working_on(folder):
        with working_on(folder):
            assert is_at_work(tmp_path)
        assert is_at_work(folder)
    assert not folder.exists()
    folder.mkdir()
    with working_on(folder):
        pass
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--config", "digits-2", *SHORT, "--seed", "1", "--out", "{}-new"],
        ["evaluate", "{}", "--attacks", "clean"],
        ["evaluate", "{}", "--linear-probe"],
        ["audit", "{}", "--n", "10"],
        ["rm", "{}", "--yes"],
    ],
)
def test_every_command_that_writes_is_refused(
    run: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run.with_name("run-new") if command[0] == "train" else run
    folder.mkdir(exist_ok=True)
    before = sorted(folder.iterdir())
    with FileLock(folder / LOCK):
        assert main([word.format(run) for word in command]) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        assert f"process is at work on {folder}" in line
    (folder / LOCK).unlink()
    assert sorted(folder.iterdir()) == before


def test_records_elsewhere_need_no_lock_of_the_run(run: Path, tmp_path: Path) -> None:
    with FileLock(run / LOCK):
        assert main(["evaluate", str(run), "--attacks", "clean", "--n", "10", "--out", str(tmp_path / "out")]) == 0
    (run / LOCK).unlink()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["evaluation.json", "manifest.json"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="could not lock"), working_on(tmp_path / "file/folder"):
        pass


def test_the_lock_of_a_process_that_was_killed_is_free(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path / "a") as process:
        with pytest.raises(ValueError, match="another process is at work"), working_on(tmp_path / "a"):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not is_at_work(tmp_path)
        with working_on(tmp_path / "a"):
            assert is_at_work(tmp_path)


def test_the_laboratory_waits_for_what_is_done_by_hand(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    job = Job("one", ("digits",), {"epochs": 1, "validation_size": 0, "schedule": None})
    with held_elsewhere(job.folder(tmp_path), 1.0):
        assert run_task(Task(job), tmp_path).complete
    assert "another process is at it; waiting" in caplog.text
    assert not is_at_work(tmp_path)


def test_processes_of_one_run_hold_it_together(tmp_path: Path, in_two_processes: Callable[..., None]) -> None:
    with FileLock(tmp_path / LOCK):
        in_two_processes(Path(__file__).with_name("two_processes_locks.py"), tmp_path / "free", tmp_path)


@pytest.mark.parametrize("kind", ["link", "dangling link", "content", "folder", "pipe"])
def test_a_lock_of_somebody_else_is_refused_and_stays(tmp_path: Path, kind: str) -> None:
    thesis, lock = tmp_path / "thesis.tex", tmp_path / "run" / LOCK
    thesis.write_text("years of work")
    lock.parent.mkdir()
    if "link" in kind:
        lock.symlink_to(tmp_path / "none" if "dangling" in kind else thesis)
    elif kind == "content":
        lock.write_text("years of work")
    elif kind == "folder":
        lock.mkdir()
    else:
        os.mkfifo(lock)
    before = lock.lstat()
    with pytest.raises(ValueError, match=f"{lock} "), working_on(lock.parent):
        pass
    with pytest.raises(ValueError, match=f"{lock} "):
        is_at_work(lock.parent)
    assert lock.lstat() == before and thesis.read_text() == "years of work" and not (tmp_path / "none").exists()


def test_a_run_and_what_lies_in_it_have_one_lock(run: Path) -> None:
    assert home(run / "prototypes") == home(Path(os.path.relpath(run / "prototypes"))) == run == home(run)
    refused = pytest.raises(ValueError, match="another process is at work")
    with held_elsewhere(run), refused, working_on(run / "prototypes"):
        pass
    with working_on(run / "prototypes"), working_on(run):
        assert [path.name for path in run.rglob(LOCK)] == [LOCK]
    assert not list(run.rglob(LOCK)) and not (run / "prototypes").exists()


def test_a_folder_that_is_never_there_is_no_endless_wait() -> None:
    with pytest.raises(DiskError, match="could not lock /proc/x"), working_on(Path("/proc/x"), wait=True):
        pass
