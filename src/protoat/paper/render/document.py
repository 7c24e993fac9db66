"""Tables as plain text cells, which each format only has to set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean, stdev
from typing import TypeVar

from protoat.evaluation.compare import Seeds
from protoat.evaluation.statistics import percentage
from protoat.paper.render.estimated import estimated
from protoat.paper.tables.fill import Filled, Measured
from protoat.paper.tables.table import Cell, Line
from protoat.paper.tables.verdict import Ranking, Verdict, rankings, seeds_of, verdicts
from protoat.runs.run import Run

ABOUT_NOTES = "Where this is not what the paper did, or it does not say what it did:"

_MISSING = "—"
Printed = TypeVar("Printed")  # a cell as a format has it


@dataclass(frozen=True)
class Sheet:
    """Cells under a heading; the first column names rows.

    Attributes:
        title: data set and what was measured.
        header: of every column.
        rows: cells as text.
        best: places (row, column) of cells that are shown to be the best.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    best: frozenset[tuple[int, int]]

    def marked(self, plain: Callable[[str], Printed], best: Callable[[str], Printed]) -> list[list[Printed]]:
        """The rows in the form of a format, which sets cells that are the best in a way of their own."""
        return [
            [(best if (row, column) in self.best else plain)(cell) for column, cell in enumerate(cells)]
            for row, cells in enumerate(self.rows)
        ]


@dataclass(frozen=True)
class Document:
    """A table as it is printed.

    Attributes:
        number: of the table, as the paper counts.
        title: what it shows.
        budget: what runs it is of, and what it may be called.
        sheets: one for each data set that heads columns.
        remarks: what the numbers allow to say, runs that ended early, and prototypes that were left.
        notes: deviations from the paper.
        missing: what is not measured, each with the command that does it.
    """

    number: int
    title: str
    budget: str
    sheets: list[Sheet]
    remarks: list[str]
    notes: list[str]
    missing: list[tuple[str, str]]


def document(number: int, table: Filled) -> Document:
    """Everything that is printed of a table, but for its raw numbers."""
    judged = verdicts(table)
    return Document(
        number,
        table.table.title,
        _budget(table),
        [_sheet(table, list(columns), judged) for _, columns in groupby(table.columns, key=lambda line: line.data)],
        [
            *_reading(table),
            *_compared(table),
            *_pretraining(table),
            *_ended_early(table),
            *_merged(table),
        ],
        _notes(table),
        [(task.job.name, task.command(table.store)) for task in table.missing()],
    )


def _budget(table: Filled) -> str:
    budget = table.budget
    nature = "" if budget.reproduction else " Not a reproduction: a short run."
    seeds = f"{'Seeds' if len(table.seeds) > 1 else 'Seed'} {', '.join(map(str, table.seeds))}"
    about = budget.about.rstrip(".")
    if not budget.reproduction and _own(table):
        about = f"runs as the notes have them; {budget.images or 'all'} test images"
    return f"Budget {budget.name}: {about}. {seeds}.{nature}"


def _own(table: Filled) -> bool:
    """Whether all its runs are short ones of their own, which the budget trains as they are."""
    data = [cell.data for _, _, cell in table.cells()]
    return all(each.study is not None and not table.budget.overrides(each.in_budgets) for each in data)


def _notes(table: Filled) -> list[str]:
    """Deviations from the paper that are about cells of the table; a short run has others, too."""
    cells, budget = [cell for _, _, cell in table.cells()], table.budget
    notes = [note.text for note in table.table.notes if any(map(note.is_about, cells))]
    if notes and not budget.reproduction and not _own(table):
        said = f"These notes are of budget paper. The runs here are of budget {budget.name}"
        notes.insert(0, f"{said}: data, networks, radii, attacks and schedules that notes name may be others here.")
    return notes


def _sheet(table: Filled, columns: Sequence[Line], judged: dict[Cell, Verdict]) -> Sheet:
    usual = _usual(table, columns)
    header, printed = ["row"], [[row.label] for row in table.rows]
    best = set()
    for column in columns:
        values = [table.table.printed(row, column) for row in table.rows]
        if any(values):
            header.append(f"{column.label}, paper")
            for line, value in zip(printed, values, strict=True):
                line.append(value or "")
        label = column.label + _stand_in(table, column)
        header.append(label if not any(values) else f"{label}, ours")
        for place, (row, line) in enumerate(zip(table.rows, printed, strict=True)):
            cell = table.table.cell(row, column)
            if cell is not None and judged.get(cell) == "best":
                best.add((place, len(line)))
            line.append("" if cell is None else _shown(table.values(cell), usual))
    return Sheet(_title(table, columns, usual), header, printed, frozenset(best))


def _stand_in(table: Filled, column: Line) -> str:
    """What is measured in place of a column's attack, or of the whole audit, at this budget."""
    for row in table.rows:
        cell = table.table.cell(row, column)
        if cell is not None and cell.read == "audit" and table.budget.checks is not None:
            return f" (here {len(table.budget.checks)} checks)"
        if cell is not None and (here := table.stands_in(cell)):
            return f" (here {', '.join(here)})"
    return ""


def _title(table: Filled, columns: Sequence[Line], usual: tuple[int, int] | None) -> str:
    """Data set of the paper; what was measured, which at a small budget may be another."""
    data = columns[0].data
    cells = [table.table.cell(row, column) for row in table.rows for column in columns]
    runs = [value.run for cell in cells if cell is not None for value in table.values(cell)]
    measured = dict.fromkeys(run.evaluation.subject.data for run in runs if run.evaluation is not None)
    size = [f"n = {usual[0]}, {_of_seeds(usual[1])}, where a cell says nothing else"] if usual else []
    return "; ".join(
        [*([data.label] if data else []), *([f"measured on {', '.join(measured)}"] if measured else []), *size]
    )


def _usual(table: Filled, columns: Sequence[Line]) -> tuple[int, int] | None:
    """Images and seeds of most cells; the worst class has a number of its own."""
    found = Counter(
        (size.images[0], len(size.counts))
        for row in table.rows
        for column in columns
        if (cell := table.table.cell(row, column)) is not None
        and cell.read == "accuracy"
        and (size := seeds_of(table.values(cell))) is not None
    )
    return found.most_common(1)[0][0] if found else None


def _shown(values: Sequence[Measured], usual: tuple[int, int] | None) -> str:
    """A cell: percentages with their interval, a mean of numbers, or words."""
    if not values:
        return _MISSING
    words = list(dict.fromkeys(value.reading.text for value in values if value.reading.text))
    if outcomes := [value.reading.outcome for value in values if value.reading.outcome is not None]:
        ceilings = [value.reading.ceiling for value in values if value.reading.ceiling is not None]
        seeds = f" ({_of_seeds(len(outcomes))})" if usual is None or usual[1] != len(outcomes) else ""
        return estimated(outcomes, ceilings) + seeds
    accuracy = seeds_of(values)
    if accuracy is not None:
        return ": ".join([*filter(None, ["; ".join(words)]), _percentages(accuracy, usual)])
    numbers = [value.reading.number for value in values if value.reading.number is not None]
    if not numbers:
        return "; ".join(words)
    deviation = f" ± {stdev(numbers):.3g}" if len(numbers) > 1 else ""
    return f"{fmean(numbers):.3g}{deviation}"


def _percentages(found: Seeds, usual: tuple[int, int] | None) -> str:
    deviation = "" if found.deviation is None else f" ± {100 * found.deviation:.1f}"
    fewest, most = found.images
    size = f"n = {fewest}" if fewest == most else f"n = {fewest} to {most}"
    told = [
        *([size] if usual is None or not usual[0] == fewest == most else []),
        *([_of_seeds(len(found.counts))] if usual is None or usual[1] != len(found.counts) else []),
    ]
    return percentage(found.mean, found.interval, beside=deviation) + (f" ({', '.join(told)})" if told else "")


def _of_seeds(seeds: int) -> str:
    return f"{seeds} seed{'s' * (seeds > 1)}"


def _reading(table: Filled) -> list[str]:
    """How to read the cells, as far as there are such."""
    lines = []
    if any(seeds_of(table.values(cell)) is not None for _, _, cell in table.cells()):
        several = len(table.seeds) > 1
        lines.append(
            "In brackets the 95 % interval: "
            + (
                "of the mean of several seeds, behind the standard deviation of a seed, Student's over seeds, or "
                "Wilson's over the images of one where that is wider; " * several
            )
            + "of one run Wilson's, over its images, which knows nothing of other seeds."
        )
    if any(value.reading.outcome is not None for _, _, cell in table.cells() for value in table.values(cell)):
        lines.append(
            "Balanced accuracies and gains: in brackets the 95 % bootstrap interval over images, or Student's over "
            "seeds where that is wider. Gains are in points, of the same seed on the same images; p is of a paired "
            "t-test over seeds, uncorrected. A share of the ceiling is the mean gain over that of the ceiling, where "
            "the interval of the latter is above zero."
        )
    if any(table.table.printed(row, column) for row, column, _ in table.cells()):
        lines.append("Columns called 'paper' repeat the numbers that the paper prints.")
    return lines


def _compared(table: Filled) -> list[str]:
    """Rows against the best of them, and by which rule."""
    ranked = [_said(ranking, table.attack(ranking.of)) for ranking, _ in rankings(table)]
    rule = (
        "Below, rows whose intervals overlap with that of the highest are said to show no difference. That is no test: "
        "rows are measured on the same images, and `protoat compare` of two runs looks at these one by one, which is "
        "sharper."
    )
    return [rule, *ranked] if ranked else []


def _said(ranking: Ranking, attack: str) -> str:
    """A ranking in words."""
    of = ranking.of
    what = f"{of.data.label}, {attack}" + f", {of.read}" * (of.read != "accuracy")
    if not ranking.alike:
        return f"{what}: {ranking.best} is highest, and marked; lower: {', '.join(ranking.lower)}."
    lower = f"; lower: {', '.join(ranking.lower)}" if ranking.lower else ""
    return f"{what}: no difference shown between {', '.join([ranking.best, *ranking.alike])}{lower}."


def _pretraining(table: Filled) -> list[str]:
    """How long encoders were pre-trained that rows start from."""
    jobs = [table.job(cell, table.seeds[0]).start for _, _, cell in table.cells()]
    starts = {job.name: job.recipe.epochs for job in jobs if job is not None and job.pretrains}
    return [f"Encoder {name}: pre-trained for {epochs} epochs." for name, epochs in starts.items()]


def _ended_early(table: Filled) -> list[str]:
    return [
        f"{run.path.name} ended after epoch {line.epoch} of {run.choices.get('epochs', '?')}, which was taken back: "
        f"{line.stopped}."
        for run in _runs(table)
        for line in run.metrics
        if line.stopped is not None
    ]


def _merged(table: Filled) -> list[str]:
    """How many prototypes were left in the weights that were measured, and at the end, where there were several."""
    lines = []
    for run in _runs(table):
        left = dict(run.prototype_counts)
        if not left or max(left[min(left)]) == 1:
            continue
        last = max(left)
        seen = run.best.epoch if run.best is not None and run.weights_name.startswith("best") else last
        lines.append(
            f"{run.path.name}: measured is epoch {seen}, with {_each(left[seen])}; epoch {last}, the last, leaves "
            f"{_each(left[last])}."
        )
    return lines


def _each(counts: Sequence[int]) -> str:
    fewest, most = min(counts), max(counts)
    number = str(most) if fewest == most else f"{fewest} to {most}"
    return f"{number} prototype{'s' * (most > 1)} in each class"


def _runs(table: Filled) -> list[Run]:
    """Every run that fills a cell, once."""
    runs = {value.run.path: value.run for _, _, cell in table.cells() for value in table.values(cell)}
    return list(runs.values())
