"""The harness that tries to break protoat tells good ends from bad ones, and some of its cases."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.chaos import commands, mutations
from benchmarks.chaos.calls import _of_numbers
from benchmarks.chaos.folders import differences, results
from benchmarks.chaos.forks import Ended
from tests.processes import begin

ROOT = Path(__file__).parents[2]
_WRITES = """
import os, sys
from pathlib import Path
from benchmarks.chaos.strikes import strike
folder = Path(sys.argv[1])
at = int(sys.argv[2])
strike(folder, lambda number: number == at, sys.argv[3])
Path("/dev/null").write_text("of no count")
(folder / "inner").mkdir()
(folder / "inner" / "new").write_text("0123456789")
handle = os.open(folder / "inner", os.O_RDONLY)
os.rename("new", "file", src_dir_fd=handle, dst_dir_fd=handle)
file = os.open("file", os.O_WRONLY | os.O_APPEND, dir_fd=handle)
os.write(file, b"abcdef")
os.fsync(file)
os.unlink("file", dir_fd=handle)
"""
# What lies there after a kill at each operation: name and content of the file.
_OPERATIONS = ["mkdir", "open", "write", "rename", "open", "write", "fsync", "unlink"]
_NOTHING, _EMPTY, _NEW = None, ("new", ""), ("new", "0123456789")
_FILE, _MORE = ("file", "0123456789"), ("file", "0123456789abcdef")
_AFTER = [_NOTHING, _EMPTY, _NEW, _FILE, _FILE, _MORE, _MORE, _NOTHING]


def struck(folder: Path, at: int, how: str) -> tuple[str, str] | None:
    done = subprocess.run([sys.executable, "-c", _WRITES, str(folder), str(at), how], cwd=ROOT, check=False)
    assert done.returncode == (-signal.SIGKILL if at <= len(_OPERATIONS) else 0)
    files = [path for path in folder.rglob("*") if path.is_file()]
    return (files[0].name, files[0].read_text()) if files else None


@pytest.mark.parametrize("at", range(1, len(_OPERATIONS) + 1))
def test_a_kill_hits_the_operation_it_is_aimed_at(at: int, tmp_path: Path) -> None:
    for how in ("before", "after", "half"):
        (tmp_path / how).mkdir()
    assert struck(tmp_path / "before", at, "before") == ([_NOTHING, *_AFTER][at - 1])
    assert struck(tmp_path / "after", at, "after") == _AFTER[at - 1]
    halves = {3: ("new", "01234"), 6: ("file", "0123456789abc")}
    assert struck(tmp_path / "half", at, "half") == halves.get(at, _AFTER[at - 1])


def test_a_kill_after_the_last_operation_does_nothing(tmp_path: Path) -> None:
    assert struck(tmp_path, len(_OPERATIONS) + 1, "before") is None


def record(folder: Path, **content: object) -> dict[str, str]:
    folder.mkdir()
    (folder / "metrics.jsonl").write_text(json.dumps({"epoch": 1, **content}) + "\n")
    (folder / "last.safetensors").write_bytes(b"weights")
    (folder / ".lock").touch()
    return results(folder)


def test_results_are_compared_without_times_and_with_the_order_of_keys(tmp_path: Path) -> None:
    first = record(tmp_path / "a", base=0.5, total=0.5, seconds=1.0)
    assert sorted(first) == ["last.safetensors", "metrics.jsonl"]
    assert differences(first, record(tmp_path / "b", base=0.5, total=0.5, seconds=2.0, measured="today")) == []
    assert differences(first, record(tmp_path / "c", base=0.6, total=0.5)) == ["metrics.jsonl differs"]
    assert differences(first, record(tmp_path / "d", total=0.5, base=0.5)) == ["metrics.jsonl differs"]
    assert differences(first, {**first, ".x.partial": ""}) == [".x.partial is left over"]
    assert differences(first, {}) == ["last.safetensors is missing", "metrics.jsonl is missing"]


def ended(code: int = 0, out: str = "clean 50.0\n", err: str = "", *, hung: bool = False) -> Ended:
    return Ended(code, out, err, 0.1, hung)


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (ended(), None),
        (ended(2, "", "protoat show: error: run/best.json is damaged\n"), None),
        (ended(0, "", "left out: run/best.json is damaged\n"), None),
        (ended(0, "clean 51.0\n"), "silently used"),
        (ended(0, "clean 51.0\n", "run/best.json is damaged\n"), "silently used"),
        (ended(2, "", "protoat show: error: something is wrong\n"), "unnamed"),
        (ended(2, "", "protoat show: error: best.json\nprotoat show: error: best.json\n"), "unnamed"),
        (ended(1, "", "Traceback (most recent call last):\nKeyError: 'best.json'\n"), "traceback"),
        (ended(-signal.SIGSEGV), "traceback"),
        (ended(-signal.SIGXCPU, hung=True), "hang"),
        (ended(1, "", "best.json\n"), "unnamed"),
    ],
)
def test_what_a_damaged_file_may_lead_to(found: Ended, kind: str | None, tmp_path: Path) -> None:
    case = mutations._Case(0, "whole", "run/best.json", "flip")
    failure = mutations._failure(case, "show", mutations._Result(ended(), {}), found, tmp_path)
    assert (failure and failure[0]) == kind


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (ended(2, "", "protoat ls: error: there is no folder x\n"), None),
        (ended(2, "", "data is read\nprotoat ls: error: there is no folder x\n"), None),
        (ended(0), "not refused"),
        (ended(2, "", "usage: protoat\n"), "not one line"),
        (ended(2, "", "protoat ls: error: x\nprotoat ls: error: y\n"), "not one line"),
        (ended(2, "", "protoat ls: error: \x1b[31m\n"), "control characters"),
        (ended(2, "", f"protoat ls: error: {'x' * 5000}\n"), "too long"),
        (ended(1, "", "Traceback (most recent call last):\nKeyError: 1\n"), "traceback"),
    ],
)
def test_what_a_bad_command_may_lead_to(found: Ended, kind: str | None) -> None:
    failure = commands._accepted(found)
    assert (failure and failure[0]) == kind


def test_cases_cover_every_command_and_are_the_same_for_a_seed() -> None:
    from protoat.cli import _COMMANDS

    cases = commands._cases(commands.COUNT, 0)
    assert cases == commands._cases(commands.COUNT, 0) != commands._cases(commands.COUNT, 1)
    assert len(cases) == commands.COUNT
    assert set(_COMMANDS) <= {case.words[0] for case in cases}
    assert {"pa.attacks.PGD(pa.Linf(0.1), steps=1.5)", "pa.regularizers.SoftTriple(2, 4, scale=nan)"} <= set(
        _of_numbers()
    )


def broken(log: Path, *args: str) -> str:
    process = begin("-m", "benchmarks.chaos", *args, log=log, folder=ROOT)
    process.join()
    said = log.read_text()
    assert process.exitcode in (0, 1), said
    return said if process.exitcode else ""


@pytest.mark.parametrize("args", [["calls", "--count", "40"], ["kills", "--only", "4", "5"]])
def test_a_few_cases(args: list[str], tmp_path: Path) -> None:
    assert not broken(tmp_path / "log", *args, "--jobs", "1")


@pytest.mark.slow
@pytest.mark.parametrize(("part", "count"), [("kills", 16), ("mutations", 40), ("commands", 80), ("calls", 120)])
def test_nothing_breaks(part: str, count: int, tmp_path: Path) -> None:
    assert not broken(tmp_path / "log", part, "--count", str(count), "--seed", "1")
