"""Compares several runs and states which differences are significant."""

from __future__ import annotations

from collections.abc import Sequence

from protoat.evaluation.compare import Comparison, check_comparable, compare, decided, in_words
from protoat.evaluation.record import WORST_CASE, Judged
from protoat.plots.style import names
from protoat.recipes.fingerprint import differences
from protoat.reports.blocks import Block, Chart, Grid, Section, Text
from protoat.reports.charts import accuracy_bars
from protoat.reports.records import HOLM, accuracy, difference, holm_in_words
from protoat.reports.sections.pictures import retrieved
from protoat.runs.records import Records

__all__ = ["comparison"]


def comparison(found: Sequence[Records], images: int) -> list[Section]:
    """Accuracies, the differences between the first and each other run, training, retrieval, and recipes.

    Args:
        found: two or more.
        images: see `protoat.reports.html.report`.
    """
    return [_side_by_side(found), _differences(found), _training(found), retrieved(found, images), _recipes(found)]


def _training(found: Sequence[Records]) -> Section:
    from protoat.plots.curves import training_curves

    folders = [records.path for records in found if records.run is not None and records.run.metrics]
    if len(folders) < 2:
        return Section("training", "Training", [Text("Fewer than two of them have a record of training.", "missing")])
    about = "Lines over epochs for each run: loss, and accuracy on held-out images; the numbers are below, by run."
    return Section("training", "Training", [Chart("Training curves", training_curves(folders), about)])


def _side_by_side(found: Sequence[Records]) -> Section:
    called = names([records.path for records in found])
    measured = [{} if records.evaluation is None else records.evaluation.entries for records in found]
    attacks = dict.fromkeys(name for entries in measured for name in entries if name != WORST_CASE)
    rows = [
        [attack, *(accuracy(entries[attack].count) if attack in entries else "—" for entries in measured)]
        for attack in [*attacks, WORST_CASE]
    ]
    subjects = [Judged() if records.evaluation is None else records.evaluation.subject for records in found]
    about = [
        ["images", *(str(subject.images or "—") for subject in subjects)],
        ["data", *(subject.data or "—" for subject in subjects)],
        ["threat", *(str(subject.threat or "—") for subject in subjects)],
        ["audit", *(_audited(records) for records in found)],
    ]
    blocks: list[Block] = []
    common = [name for name in (*attacks, WORST_CASE) if all(name in entries for entries in measured)]
    if common:
        series = {
            name: {attack: entries[attack].count for attack in common}
            for name, entries in zip(called, measured, strict=True)
        }
        about_chart = (
            "A bar for each run under each attack that all have, with 95 % intervals; the table has the numbers."
        )
        blocks.append(Chart("Accuracy under attack", accuracy_bars(series), about_chart))
    blocks += [
        Grid("Accuracy % with Wilson's 95 % interval over images", ["attack", *called], rows),
        Text("An attack of one name may have other parameters in another run; only equal ones are compared below."),
        Grid("What was measured", ["", *called], about, text=1 + len(called)),
    ]
    return Section("side-by-side", "Side by side", blocks)


def _audited(records: Records) -> str:
    if records.audit is None:
        return "not audited"
    audit = records.audit
    verdict = "failed" if audit.failed else "no check failed" if audit.passed else "incomplete"
    return f"{verdict}, {audit.extent}"


def _differences(found: Sequence[Records]) -> Section:
    first, *others = found
    name, *other_names = names([records.path for records in found])
    pairs = {
        other_name: _compared(first, other, name, other_name)
        for other, other_name in zip(others, other_names, strict=True)
    }
    compared = {key: pair for key, pair in pairs.items() if not isinstance(pair, Text)}
    tests = decided({(key, each.attack): each.pair.p_value for key, pair in compared.items() for each in pair})
    columns = ["attack", "verdict", "difference", "95 % interval", "p", HOLM, name]
    blocks: list[Block] = []
    for key, pair in pairs.items():
        if isinstance(pair, Text):
            blocks.append(pair)
        else:
            rows = [_row(each, tests[key, each.attack]) for each in pair]
            header = [*columns, key, "only right in", *["worst modes"] * any(each.worst_modes for each in pair)]
            blocks.append(Grid(f"{name} and {key}, image by image", header, rows, text=2))
    blocks.append(
        Text(
            "Difference in points, the second less the first. The p of the exact McNemar test on the images that only "
            "one of the two gets right decides: there is a difference where it is below 0.05 after "
            f"{holm_in_words(len(tests))}. The interval is a bootstrap over images and decides nothing. Worst modes "
            "are of different images, so a difference is said only where their intervals do not overlap. A worst case "
            "is left out where one run was attacked in more ways than the other. One run each: this says nothing about "
            "other seeds of the same recipes; protoat compare puts seeds together."
        )
    )
    return Section("differences", "Differences, image by image", blocks)


def _compared(first: Records, other: Records, name: str, other_name: str) -> list[Comparison] | Text:
    """A comparison for each attack, or why there is none."""
    records = {key: of.evaluation for key, of in ((name, first), (other_name, other)) if of.evaluation is not None}
    if missing := [key for key in (name, other_name) if key not in records]:
        return Text(f"{name} and {other_name}: {' and '.join(missing)} not measured.", "missing")
    if old := [key for key, record in records.items() if None in (record.subject.data_sha256, record.subject.threat)]:
        return Text(f"{name} and {other_name}: {' and '.join(old)} measured by an earlier version.", "missing")
    try:
        check_comparable(records)
    except ValueError as error:
        return Text(str(error), "missing")
    return compare(records[name], records[other_name])


def _row(found: Comparison, test: tuple[float, bool]) -> list[str]:
    pair = found.pair
    modes = " / ".join(f"{mode}: {100 * count.accuracy:.1f}" for mode, count in found.worst_modes or ())
    return [
        found.attack,
        in_words(test[1]),
        *difference(pair.difference, pair.interval(), pair.p_value, test[0]),
        f"{100 * found.first.accuracy:.1f}",
        f"{100 * found.second.accuracy:.1f}",
        f"{pair.only_first} / {pair.only_second}",
        *[f"{modes}; {in_words(found.shown_in_worst_mode)}"] * bool(modes),
    ]


def _recipes(found: Sequence[Records]) -> Section:
    first, *others = found
    name, *other_names = names([records.path for records in found])
    blocks: list[Block] = []
    for other, other_name in zip(others, other_names, strict=True):
        if first.run is None or other.run is None:
            blocks.append(Text(f"{other_name} against {name}: one of them has no recipe.", "missing"))
            continue
        different = differences(first.run.choices, other.run.choices)
        blocks.append(
            Grid(
                f"{other_name} against {name}",
                ["key", name, other_name],
                [each.words for each in different],
                text=3,
            )
            if different
            else Text(f"{other_name} has the recipe of {name}.")
        )
    return Section("recipes", "What differs in the recipes", blocks)
