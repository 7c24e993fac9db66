"""The paper's Figure 3: accuracy against the number of prototypes that a class begins with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from protoat.errors import UserError
from protoat.evaluation import Count
from protoat.evaluation.compare import check_comparable, overlap
from protoat.evaluation.record import Evaluation
from protoat.plots.plot import Plot, styled
from protoat.plots.records import measured
from protoat.plots.style import accuracy_axis, chosen, label, legend
from protoat.plots.sweeps import Measured, draw_line
from protoat.recipes.fingerprint import differences
from protoat.records.files import read_recipe
from protoat.runs.run import Run

PAPER = (
    "Paper, section 5 (CIFAR10-2): more prototypes for each class improve clean and PGD-10 accuracy up to a point, and "
    "then decrease them slightly; three are best there."
)
_KEY = "regularizer.prototypes_per_class"


@styled
def accuracy_against_prototypes(
    runs: Sequence[Path | str], *, attack: str = "pgd10", records: Mapping[Path, Evaluation] | None = None
) -> Plot:
    """Clean and attacked accuracy, with intervals, against the prototypes that each class begins with.

    Args:
        runs: of one recipe but for ``prototypes_per_class``; weights are not needed.
        attack: as the records call it, or ``aa``.
        records: evaluations of these runs that are drawn in place of their ``evaluation.json``.

    Raises:
        ValueError: a run without prototypes or without that attack in its record, a record of earlier weights,
            measurements that cannot be compared, or two runs with the same number.
    """
    folders = chosen(runs)
    found = {folder: measured(folder, records) for folder in folders}
    check_comparable({str(folder): record for folder, record in found.items()})
    stored = {_number(run): run for run in map(Run, folders)}
    if len(stored) < len(folders):
        raise UserError("two of the runs begin with the same number of prototypes; name one run for each number")
    order = sorted(stored, key=lambda number: (sum(number), number))
    lines, verdicts = {}, []
    for name in ("clean", attack):
        counts = {_words(number): _count(found[stored[number].path], name, stored[number]) for number in order}
        lines[label(name)] = [Measured(x, name, count) for x, count in enumerate(counts.values())]
        verdicts.append(f"{label(name)}: {_verdict(counts)}")
    left = [f"{_words(number)}: {_left(stored[number])}" for number in order]
    subject = found[folders[0]].subject
    about = [
        f"{subject.images} test images of {label(subject.data)}, one run each; bars: 95 % intervals over images, which "
        "know nothing of other seeds",
        *verdicts,
        f"left at the end: {'; '.join(left)}",
        label(_other_differences(folders), longest=160),
        PAPER,
    ]
    plot = Plot("Accuracy against the number of prototypes", about)
    axes = plot.subplots()
    for turn, (name, points) in enumerate(lines.items()):
        draw_line(axes, name, points, turn, turn)
    axes.set_xticks(range(len(order)), [_words(number) for number in order])
    axes.set(xlabel="prototypes of a class at the beginning")
    accuracy_axis(axes)
    legend(axes)
    return plot


def _number(run: Run) -> tuple[int, ...]:
    """Prototypes that each class begins with; one number where all have the same."""
    choice = run.choices.get("regularizer")
    arguments = (choice.get("init_args") or {}) if isinstance(choice, Mapping) else {}
    given = arguments.get("prototypes_per_class")
    if given is None:
        raise UserError(f"{run.path} has no prototypes: it was not trained with SoftTriple; name runs that were")
    numbers = tuple(given) if isinstance(given, list) else (given,)
    return numbers[:1] if len(set(numbers)) == 1 else numbers


def _words(number: tuple[int, ...]) -> str:
    return "/".join(map(str, number))


def _count(record: Evaluation, attack: str, run: Run) -> Count:
    name = record.recorded_name(attack)
    if name is None:
        raise UserError(
            f"{run.path} is not measured under {attack}; do so: protoat evaluate {run.path} --attacks clean {attack}"
        )
    return record[name].count


def _verdict(counts: Mapping[str, Count]) -> str:
    """The number with the highest accuracy, and those from which no difference is shown."""
    best = max(counts, key=lambda number: counts[number].accuracy)
    alike = [n for n, count in counts.items() if n != best and overlap(count.interval, counts[best].interval)]
    beside = f", no difference shown from {', '.join(alike)}" if alike else ""
    return f"highest at {best}{beside}"


def _left(run: Run) -> str:
    """Prototypes of each class after the last epoch."""
    trace = run.prototype_counts
    if not trace:
        return "not recorded"
    counts = trace[-1][1]
    return " and ".join(map(str, counts)) if len(counts) <= 4 else f"{min(counts)} to {max(counts)}"


def _other_differences(folders: Sequence[Path]) -> str:
    """In what else the recipes differ, which the figure cannot tell apart."""
    first, *others = map(read_recipe, folders)
    found = {each.key for other in others for each in differences(first, other)} - {_KEY}
    return f"The recipes also differ in {', '.join(sorted(found))}." if found else ""
