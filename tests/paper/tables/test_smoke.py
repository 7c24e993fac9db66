"""Every line of every table from nothing at the smallest budget; nothing is done twice, and a kill changes no cell."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

import pytest

from protoat.cli import main
from protoat.paper.rows import Data
from protoat.paper.tables import table_numbers, table_of
from protoat.paper.tables.table import Line
from tests.processes import begin

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


class Part(NamedTuple):
    """Some rows and columns of a table by name; none stands for all."""

    table: int
    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    def command(self, out: str) -> list[str]:
        chosen = (option for option in (("--rows", *self.rows), ("--columns", *self.columns)) if option[1:])
        return ["table", str(self.table), *chain(*chosen), "--format", "csv", "--out", out]


_NAMES = [row.setup.name for row in table_of(10).rows if row.setup is not None]
WAYS = tuple(name for name in _NAMES if not name.endswith("-weights"))
# What two processes do at the same time: every row, and for a row or two all that is measured. Rows and data sets meet
# where a recipe or a row knows of the other.
SHARES = (
    {
        "cifar10": Part(2, columns=("CIFAR10", "Clean")),
        "cifar10-attacked": Part(2, ("ours-acl",), ("CIFAR10",)),
        "mnist": Part(2, ("tla", "rocl", "acl", "free-slow"), ("MNIST", "Clean")),
        "mnist-attacked": Part(2, ("free-slow",), ("MNIST",)),
        "cifar100": Part(2, ("ours-acl",), ("CIFAR100",)),
        "encoders": Part(4, columns=("Clean",)),
        "attacks": Part(4, ("CIFAR10: TLA", "CIFAR10-2: Ours (PGD)")),
        "weights": Part(8, ("CIFAR10",), ("weight 2.0", "weight 1.0", "weight 0.1")),
        "weights-2": Part(8, ("CIFAR10-2",), ("weight 1.5", "weight 0.5")),
        "costs": Part(1),
        "targets": Part(5),
        "modes": Part(10, WAYS, ("CIFAR10-2", "Clean")),
        "modes-2": Part(10, ("logsumexp", "known-weights"), ("CIFAR10-2",)),
        "modes-3": Part(10, ("known",), ("MNIST odd/even", "MNIST-2-LT", "digits-2-LT")),
        "modes-4": Part(10, ("plain",), ("CIFAR10-2 (JPEG)", "Tiny ImageNet-2")),
    },
    {
        "cifar10-2": Part(3, columns=("CIFAR10-2", "Clean")),
        "cifar10-2-attacked": Part(3, ("pgd",), ("CIFAR10-2",)),
        "tiny-imagenet": Part(3, ("tla",), ("Tiny ImageNet",)),
        "cifar100-10": Part(3, ("ours-acl",), ("CIFAR100-10",)),
        "prototypes": Part(7),
        "losses": Part(6),
        "strong": Part(11, tuple(f"strong-{way}-weights" for way in WAYS), ("MNIST odd/even-LT", "Clean")),
        "strong-2": Part(11, ("strong-soft-triple",), ("MNIST odd/even-LT",)),
        "strong-3": Part(11, ("strong-known",), ("MNIST-2", "digits-2", "digits odd/even-LT")),
        "worst": Part(9, columns=("CIFAR10", "Clean")),
        "worst-2": Part(9, ("ours-acl",), ("CIFAR10", "CIFAR10-2")),
        "worst-3": Part(9, ("ours",), ("CIFAR100", "CIFAR100-10")),
        "worst-4": Part(9, ("free-slow",), ("MNIST",)),
        "worst-5": Part(9, ("tla",), ("Tiny ImageNet",)),
    },
)
PARTS = SHARES[0] | SHARES[1]
WORK = """
import json
import sys
from protoat.cli import main
for command in json.loads(sys.argv[1]):
    assert main(command) == 0, command
"""


def work(folder: Path, parts: dict[str, Part]) -> None:
    """Fills them in one process, since to start one takes longer than most runs."""
    command = [sys.executable, "-c", WORK, json.dumps([part.command(f"{name}.csv") for name, part in parts.items()])]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def state(folder: Path) -> dict[str, tuple[int, int]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


def cells(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


# The two last have the same rows and columns, over two bases.
@pytest.mark.parametrize("numbers", [*((number,) for number in table_numbers() if number < 10), (10, 11)], ids=str)
@pytest.mark.parametrize("kind", ["rows", "columns"])
def test_every_line_of_every_table_is_in_one_of_the_parts(
    numbers: tuple[int, ...], kind: Literal["rows", "columns"]
) -> None:
    def names(lines: Iterable[Line]) -> set[tuple[str, Data | None]]:
        return {(line.label, line.data) for line in lines}

    parts = [part for part in PARTS.values() if part.table in numbers]
    done = [names(table_of(part.table).chosen(kind, getattr(part, kind))) for part in parts]
    for number in numbers:
        assert set().union(*done) == names(getattr(table_of(number), kind))


@pytest.mark.slow
def test_every_table_completes_and_a_second_call_does_no_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tables at a time share one store: a run that both need is done by one of them.

    Every row, column, data set and base is there once, not all pairs of them: those are 300 runs.
    """
    started = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(work, tmp_path, share) for share in SHARES]:
            done.result()
    print(f"all tables: {time.monotonic() - started:.0f} s")
    for name in PARTS:
        for cell in cells(tmp_path / f"{name}.csv"):
            assert cell["correct"] or cell["number"] or cell["text"], cell
    runs = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*/run.json")]
    assert {len(run["sessions"]) for run in runs} == {1}
    monkeypatch.chdir(tmp_path)
    before = state(tmp_path / "runs")
    for name, part in PARTS.items():
        assert main(part.command(f"again-{name}.csv")) == 0
        assert (tmp_path / f"again-{name}.csv").read_text() == (tmp_path / f"{name}.csv").read_text()
    assert state(tmp_path / "runs") == before


@pytest.mark.slow
def test_killed_at_random_and_started_again_a_table_has_the_same_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed, log = tmp_path / "whole", tmp_path / "killed", tmp_path / "log"
    args = ["7", "--rows", "2/2", "3/4", "ours", "--format", "csv", "--out", "seven.csv"]
    for folder in (whole, killed):
        folder.mkdir()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # another number of threads rounds otherwise
    monkeypatch.chdir(whole)
    assert main(["table", *args]) == 0
    moments, kills = random.Random(0), 0
    for _ in range(4):
        lines = moments.randint(2, 9)  # a point of the work, not of time: machines differ
        process = begin("-m", "protoat", "table", *args, log=log, folder=killed)
        while len(log.read_text().splitlines()) < lines and process.is_alive():
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 0.3))
        kills += process.is_alive()
        process.kill()
        process.join()
    assert kills
    monkeypatch.chdir(killed)
    assert main(["table", *args]) == 0
    assert cells(killed / "seven.csv") == cells(whole / "seven.csv")
