"""Records of runs as rows, columns and words, for reports and for the terminal."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from protoat.errors import UserError
from protoat.evaluation import Count
from protoat.evaluation.compare import Comparison, in_words
from protoat.evaluation.record import WORST_CASE
from protoat.evaluation.statistics import weakest_first
from protoat.runs.records import Records, RunRecords
from protoat.runs.run import Run

DIFFERENCE = ["difference", "95 % interval", "p", "p by Holm"]  # columns of `difference`
OF_MODES = (
    "Records keep counts of a mode, not which images are of it. So modes, and worst modes, which may be two different "
    "ones, are compared by Fisher's exact test, which is more cautious than a paired test where both fail on the same "
    "images. There is a difference where its p is below 0.05 after Holm's correction for all comparisons of modes made "
    "here."
)


def records_of(folder: Path | str) -> Records:
    """The records of a run folder, or of one that ``protoat evaluate --out`` or ``protoat audit --out`` has written.

    Raises:
        ValueError: neither, or a damaged file.
    """
    path = Path(folder)
    names = ("recipe.yaml", "evaluation.json", "audit.json")
    if not any(os.path.lexists(path / name) for name in names):
        raise UserError(f"{path} holds nothing to report: none of {', '.join(names)}; name run folders")
    if not os.path.lexists(path / "recipe.yaml"):
        return Records(path)
    run = Run(path)
    run.check()
    run.warn_of_damage()
    return run


def epochs_of(run: RunRecords) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a run's training, a row for each epoch."""
    best = None if run.best is None else run.best.epoch
    rows = []
    for line in run.metrics:
        measured = {} if line.held_out is None else line.held_out.shares
        shares = [f"{100 * measured[name]:.1f}" if name in measured else "—" for name in ("clean", "robust")]
        mark = " (taken back)" if line.stopped is not None else " (best)" if line.epoch == best else ""
        rows.append([f"{line.epoch}{mark}", f"{line.total:.4f}", f"{line.lr:.2g}", *shares, f"{line.seconds:.1f}"])
    return ["epoch", "loss", "lr", "held-out clean %", "held-out robust %", "seconds"], rows


def changes_of(run: RunRecords) -> list[list[str]]:
    """Epoch and prototypes of each class, for the epochs in which a count changed."""
    rows, before = [], None
    for epoch, counts in run.prototype_counts:
        if counts != before:
            rows.append([str(epoch), *map(str, counts)])
        before = counts
    return rows


def hardest_of(found: Sequence[Comparison]) -> Comparison:
    """Of comparisons, that of the worst case, else that under the attack which leaves the fewest images right."""
    cases = [each for each in found if each.attack == WORST_CASE]
    return cases[0] if cases else min(found, key=lambda each: each.first.correct + each.second.correct)


def mode_rows(found: Comparison, shown: Mapping[str, bool]) -> list[list[str | Count]]:
    """Rows of a table: a mode, what each leaves right of it, the difference in points, and whether one is shown.

    The weakest mode of the first comes first.

    Args:
        found: of two models.
        shown: whether a difference is shown, by mode, after correction for all that are compared.
    """
    rows: list[list[str | Count]] = []
    for mode in weakest_first({mode: first for mode, (first, _) in found.per_mode.items()}):
        first, second = found.per_mode[mode]
        gain = f"{100 * (second.accuracy - first.accuracy):+.1f}"
        rows.append([mode, first, second, gain, in_words(shown[mode])])
    return rows


def pair_columns(first: str, second: str) -> list[str]:
    """The columns of `pair_row`, of two models by name."""
    return ["attack", first, second, *DIFFERENCE, "only right in", "verdict"]


def pair_row(found: Comparison, test: tuple[float, bool]) -> list[str]:
    """Two models under an attack: accuracies in per cent, their difference and whether the test shows one.

    Args:
        found: the comparison.
        test: p after correction, and whether it shows a difference; see `protoat.evaluation.compare.decided`.
    """
    pair = found.pair
    return [
        found.attack,
        f"{100 * found.first.accuracy:.1f}",
        f"{100 * found.second.accuracy:.1f}",
        *difference(pair.difference, pair.interval(), pair.p_value, test[0]),
        f"{pair.only_first} / {pair.only_second}",
        in_words(test[1]),
    ]


def difference(of: float, interval: tuple[float, float], p: float, corrected: float) -> list[str]:
    """A difference of accuracies in points, its interval, and the p of a test, plain and corrected.

    >>> difference(0.08, (0.02, 0.15), 0.0386, 0.1158)
    ['+8.00', '+2.00 to +15.00', '0.039', '0.12']
    >>> difference(0.5, (0.4, 0.6), 0.0, 0.0)[2:]
    ['< 1e-300', '< 1e-300']
    """
    low, high = interval
    tests = [f"{value:.2g}" if value else "< 1e-300" for value in (p, corrected)]  # too small for a float
    return [f"{100 * of:+.2f}", f"{100 * low:+.2f} to {100 * high:+.2f}", *tests]


def holm_in_words(tests: int) -> str:
    """What the last of these p is corrected for.

    >>> holm_in_words(6)
    "Holm's correction for the 6 tests made here"
    """
    return f"Holm's correction for the {tests} test{'s' * (tests != 1)} made here"


def pairs_in_words(tests: int) -> str:
    """How to read the rows of pairs of models, of which so many tests were made."""
    return (
        "Difference in points, the second less the first. The p of the exact McNemar test on the images that only one "
        f"gets right decides: there is a difference where it is below 0.05 after {holm_in_words(tests)}. The interval "
        "is a bootstrap over images and decides nothing."
    )


ONE_RUN_EACH = "One run each: this says nothing about other seeds of the same recipes"
