"""Every table from nothing at the smallest budget; nothing is done twice, and a kill changes no cell."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from protoat.cli import main
from protoat.paper.tables import table_numbers

COMMAND = [sys.executable, "-m", "protoat.cli", "table"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
# What two processes do at the same time.
SHARES = ((2, 4, 8, 1, 5, 10), (9, 3, 7, 6, 11))
WORK = """
import sys
from protoat.cli import main
for number in sys.argv[1:]:
    assert main(["table", number, "--format", "csv", "--out", f"{number}.csv"]) == 0, number
"""


def work(folder: Path, numbers: tuple[int, ...]) -> None:
    """Fills tables in one process, since to start one takes longer than most runs."""
    command = [sys.executable, "-c", WORK, *map(str, numbers)]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def state(folder: Path) -> dict[str, tuple[int, int]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


def cells(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_every_table_completes_and_a_second_call_does_no_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tables at a time share one store: a run that both need is done by one of them."""
    numbers = sorted(number for share in SHARES for number in share)
    assert numbers == table_numbers()
    started = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(work, tmp_path, share) for share in SHARES]:
            done.result()
    print(f"all tables: {time.monotonic() - started:.0f} s")
    for number in numbers:
        for cell in cells(tmp_path / f"{number}.csv"):
            assert cell["correct"] or cell["number"] or cell["text"], cell
    runs = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*/run.json")]
    assert {len(run["sessions"]) for run in runs} == {1}
    monkeypatch.chdir(tmp_path)
    before = state(tmp_path / "runs")
    for number in numbers:
        assert main(["table", str(number), "--format", "csv", "--out", f"again-{number}.csv"]) == 0
        assert (tmp_path / f"again-{number}.csv").read_text() == (tmp_path / f"{number}.csv").read_text()
    assert state(tmp_path / "runs") == before


@pytest.mark.slow
def test_killed_at_random_and_started_again_a_table_has_the_same_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    args = ["7", "--rows", "2/2", "3/4", "ours", "--format", "csv", "--out", "seven.csv"]
    for folder in (whole, killed):
        folder.mkdir()
    monkeypatch.chdir(whole)
    assert main(["table", *args]) == 0
    moments, kills = random.Random(0), 0
    for _ in range(4):
        with subprocess.Popen(
            [*COMMAND, *args], cwd=killed, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            next(
                (line for line in process.stderr if " 1 of " in line), ""
            )  # the first run begins; "" when none is left
            time.sleep(moments.uniform(0, 3))
            kills += process.poll() is None
            process.kill()
    assert kills
    monkeypatch.chdir(killed)
    assert main(["table", *args]) == 0
    assert cells(killed / "seven.csv") == cells(whole / "seven.csv")
