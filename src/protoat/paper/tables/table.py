"""The declaration of a table: rows, columns, measurements, and the paper's printed values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from protoat.errors import UserError
from protoat.names import nearest
from protoat.paper.rows import Data, Setup
from protoat.paper.tables.notes import Note

Read = Literal[
    "accuracy",
    "balanced accuracy",
    "worst class",
    "worst mode",
    "gain",
    "gain in worst mode",
    "share of ceiling",
    "share of ceiling in worst mode",
    "minutes",
    "overhead",
    "prototypes",
    "audit",
]

WORST_CASE = "worst case"  # as a record calls it


class Cell(NamedTuple):
    """What is measured: a way to train, the data, the attack, and what is read off the record."""

    setup: Setup
    data: Data
    attack: str
    read: Read

    @property
    def beside(self) -> list[Setup | None]:
        """What else has to be trained, to compare with."""
        if self.read.startswith("share"):
            return [self.setup.baseline, self.setup.ceiling]
        return [self.setup.baseline] if self.read == "overhead" or self.read.startswith("gain") else []


@dataclass(frozen=True)
class Line:
    """A row or a column: its heading, and what it says of its cells; the other direction says the rest.

    Attributes:
        label: heading.
        setup, data, attack, read: what it says of its cells.
        ours: whether the paper has no such line.
    """

    label: str
    setup: Setup | None = None
    data: Data | None = None
    attack: str | None = None
    read: Read | None = None
    ours: bool = False

    @property
    def headings(self) -> list[str]:
        """What a hint calls it: heading, data set and way to train."""
        return [name for name in (self.label, self.data and self.data.label, self.setup and self.setup.name) if name]

    @property
    def names_of_data(self) -> set[str]:
        """What its data may be called on a command line, in small letters."""
        return (
            {name.lower() for name in (self.data.label, self.data.name, self.data.in_budgets)} if self.data else set()
        )

    @property
    def names(self) -> set[str]:
        """What else it may be called."""
        said = (self.label, self.setup and self.setup.name, self.attack, self.read)
        return {name.lower() for name in said if name} - self.names_of_data


@dataclass(frozen=True)
class Table:
    """A declaration.

    Attributes:
        title: what it shows.
        rows, columns: its lines.
        paper: the paper's values, a line of text for each row that is not `Line.ours`, a word for each such column,
            ``-`` where the paper has none.
        notes: where this is not what the paper did, or did not say, each with the cells it is about.
        base: what no line says.

    Raises:
        ValueError: a grid of another size than that of the paper's rows and columns.

    >>> from protoat.paper.rows import FAST, MNIST
    >>> table = Table("t", (Line("Fast", FAST),), (Line("Clean", data=MNIST, attack="clean"),), "98.71")
    >>> table.printed(table.rows[0], table.columns[0]), table.cell(table.rows[0], table.columns[0]).attack
    ('98.71', 'clean')
    """

    title: str
    rows: tuple[Line, ...]
    columns: tuple[Line, ...]
    paper: str = ""
    notes: tuple[Note, ...] = ()
    base: Line = Line("")

    def __post_init__(self) -> None:
        rows, columns = map(len, self._of_paper)
        if self._grid and (len(self._grid) != rows or any(len(line) != columns for line in self._grid)):
            raise UserError(f"{self.title}: the paper's values must be {rows} lines of {columns}")

    @property
    def _grid(self) -> list[list[str]]:
        return [line.split() for line in self.paper.strip().splitlines()]

    @property
    def _of_paper(self) -> tuple[list[Line], list[Line]]:
        """The paper's rows and columns."""
        return [line for line in self.rows if not line.ours], [line for line in self.columns if not line.ours]

    def cell(self, row: Line, column: Line) -> Cell | None:
        """What a row and a column measure together; None where there is nothing, as prototypes of a run without."""
        said = (row, column, self.base)
        setup = next(line.setup for line in said if line.setup is not None)
        data = next(line.data for line in said if line.data is not None)
        attack = next((line.attack for line in said if line.attack is not None), "clean")
        read: Read = next((line.read for line in said if line.read is not None), "accuracy")
        cell = Cell(setup, data, attack, read)
        return cell if setup.trains_on(data) and all(other is not None for other in cell.beside) else None

    def printed(self, row: Line, column: Line) -> str | None:
        """The paper's value, as it stands there."""
        if not self.paper or row.ours or column.ours:
            return None
        rows, columns = self._of_paper
        value = self._grid[rows.index(row)][columns.index(column)]
        return None if value == "-" else value

    def chosen(self, kind: Literal["rows", "columns"], names: Sequence[str]) -> tuple[Line, ...]:
        """Rows or columns by name, all if none is named; in the order of the table.

        Names of data sets and other names narrow each other: MNIST and Clean is the column Clean of MNIST.

        Raises:
            ValueError: an unknown name, with the nearest valid one, or names that no line has together.
        """
        lines: tuple[Line, ...] = getattr(self, kind)
        all_data = set().union(*(line.names_of_data for line in lines))
        all_others = set().union(*(line.names for line in lines))
        for name in names:
            if name.lower() not in all_data | all_others:
                headings = {heading.lower(): heading for line in lines for heading in reversed(line.headings)}
                raise UserError(f"--{kind} {name!r} is unknown in this table; {nearest(name, headings.values())}")
        wanted = {name.lower() for name in names}
        data, others = wanted & all_data, wanted - all_data
        found = tuple(
            line for line in lines if (not data or data & line.names_of_data) and (not others or others & line.names)
        )
        if not found:
            raise UserError(f"--{kind} {' '.join(names)}: none in this table is both; name {kind} of one data set")
        return found


def under(data: Data, columns: Iterable[Line]) -> tuple[Line, ...]:
    """The same columns for a data set."""
    return tuple(replace(column, data=data) for column in columns)


# Columns shared by several tables.
CLEAN = Line("Clean", attack="clean")
FGSM = Line("FGSM", attack="fgsm")
PGD10 = Line("PGD10", attack="pgd10")
AUTOATTACK = Line("AutoAttack", attack="aa", ours=True)
