"""Fills a table from the records of a store, and lists the tasks that are missing."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from protoat.arguments import check_seed
from protoat.errors import UserError
from protoat.paper.budget import Budget
from protoat.paper.job import Job, Task
from protoat.paper.laboratory import finished
from protoat.paper.rows import Data, Setup
from protoat.paper.tables.readings import Reading, read
from protoat.paper.tables.table import WORST_CASE, Cell, Line, Table
from protoat.runs.named_attacks import knows_prototypes
from protoat.runs.run import Run

logger = logging.getLogger(__name__)


class Measured(NamedTuple):
    """A cell's value of one seed."""

    seed: int
    run: Run
    reading: Reading


@dataclass(frozen=True)
class Filled:
    """A table at a budget, from a store.

    Records are read when a value is asked for the first time, and no later.

    Attributes:
        table: the declaration.
        budget: at which its rows train and are measured.
        seeds: of the runs.
        store: where runs are.
        rows, columns: which of the table's.
    """

    table: Table
    budget: Budget
    seeds: tuple[int, ...]
    store: Path
    rows: tuple[Line, ...]
    columns: tuple[Line, ...]
    _jobs: dict[tuple[Setup, Data, int], Job] = field(default_factory=dict, init=False, repr=False, compare=False)

    def tasks(self) -> list[Task]:
        """Every run with all that is measured of it, done or not, in the order of rows and seeds."""
        wanted: dict[str, Task] = {}
        for _, _, cell in self.cells():
            for seed in self.seeds:
                for task in self._tasks(cell, seed):
                    known = wanted.get(task.job.identity, task)
                    attacks = tuple(dict.fromkeys((*known.attacks, *task.attacks)))
                    wanted[task.job.identity] = self._task(known.job, attacks, audit=known.audit or task.audit)
        return list(wanted.values())

    def missing(self) -> list[Task]:
        """The tasks that are not done."""
        return [task for task in self.tasks() if self._finished(task) is None]

    def cells(self) -> Iterator[tuple[Line, Line, Cell]]:
        """Each row and column with what they measure."""
        for row in self.rows:
            for column in self.columns:
                if (cell := self.table.cell(row, column)) is not None:
                    yield row, column, cell

    def values(self, cell: Cell) -> tuple[Measured, ...]:
        """What the seeds that are done give."""
        return self._values[cell]

    @cached_property
    def _values(self) -> dict[Cell, tuple[Measured, ...]]:
        done: dict[Task, Run | None] = {}

        def value(cell: Cell, seed: int) -> Measured | None:
            runs = []
            for task in self._tasks(cell, seed):
                if task not in done:
                    done[task] = self._finished(task)
                if (run := done[task]) is None:
                    return None
                runs.append(run)
            reading = read(cell.read, runs, self.attack(cell))
            return Measured(seed, runs[0], reading)

        return {
            cell: tuple(found for seed in self.seeds if (found := value(cell, seed)) is not None)
            for _, _, cell in self.cells()
        }

    def _finished(self, task: Task) -> Run | None:
        try:
            return finished(task, self.store)
        except UserError as error:
            logger.warning("left out: %s", error)
            return None

    def _tasks(self, cell: Cell, seed: int) -> list[Task]:
        """What one value takes: a run, and those it is compared with."""
        setups = [cell.setup, *(other for other in cell.beside if other is not None)]
        jobs = [self._job(setup, cell.data, seed) for setup in setups]
        if cell.read in ("minutes", "overhead", "prototypes"):
            return [Task(job) for job in jobs]
        if cell.read == "audit":
            return [self._task(job, (), audit=True) for job in jobs]
        return [self._task(job, self.attacks(cell, job)) for job in jobs]

    def _task(self, job: Job, attacks: tuple[str, ...], *, audit: bool = False) -> Task:
        return Task(job, attacks, self.budget.images, audit, self.budget.checks if audit else None)

    def attack(self, cell: Cell) -> str:
        """The attack of a cell, or what stands in for it at this budget; what a record calls a worst case."""
        return self.budget.attacks.get(cell.attack, cell.attack)

    def attacks(self, cell: Cell, job: Job) -> tuple[str, ...]:
        """What is measured for a cell: of a worst case AutoAttack, and attacks on prototypes where a run has such."""
        names: tuple[str, ...] = (cell.attack,)
        if cell.attack == WORST_CASE:
            names = ("aa", "adaptive") if knows_prototypes(job.recipe) else ("aa",)
        return tuple(self.budget.attacks.get(name, name) for name in names)

    def stands_in(self, cell: Cell) -> list[str]:
        """What stands in for the attacks of a cell at this budget."""
        names = ("aa", "adaptive") if cell.attack == WORST_CASE else (cell.attack,)
        return [self.budget.attacks[name] for name in names if name in self.budget.attacks]

    def job(self, cell: Cell, seed: int) -> Job:
        """The run of a cell."""
        return self._job(cell.setup, cell.data, seed)

    def _job(self, setup: Setup, data: Data, seed: int) -> Job:
        """One object for each run, since it takes a while to tell its identity."""
        key = setup, data, seed
        if key not in self._jobs:
            self._jobs[key] = setup.job(data, self.budget, seed=seed)
        return self._jobs[key]


def filled(
    table: Table,
    budget: Budget,
    *,
    seeds: Sequence[int],
    store: Path,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
) -> Filled:
    """A table, or the rows and columns that are named.

    Raises:
        ValueError: an unknown row or column, or a seed that is negative or named twice.
    """
    for seed in seeds:
        check_seed(seeds=seed)
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"seeds={list(seeds)}: name each seed once, such as 0 1 2")
    return Filled(table, budget, tuple(seeds), store, table.chosen("rows", rows), table.chosen("columns", columns))
