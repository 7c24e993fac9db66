"""Compares several runs and states which differences are significant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from protoat.evaluation import Count
from protoat.evaluation.compare import Comparison, check_comparable, compare, decided
from protoat.evaluation.record import WORST_CASE, Judged
from protoat.plots.style import names
from protoat.recipes.fingerprint import differences
from protoat.reports.blocks import Block, Chart, Grid, Section, Text
from protoat.reports.records import (
    OF_MODES,
    ONE_RUN_EACH,
    hardest_of,
    mode_rows,
    pair_columns,
    pair_row,
    pairs_in_words,
)
from protoat.reports.sections.pictures import Views, retrieved
from protoat.reports.sections.summary import compared_in_words
from protoat.runs.records import Records

_Tests = Mapping[tuple[str, str], tuple[float, bool]]


def comparison(found: Sequence[Records], views: Views) -> list[Section]:
    """In words; accuracies, the differences between the first and each other run, recipes, training and retrieval.

    Args:
        found: two or more.
        views: see `protoat.reports.sections.pictures`.
    """
    called = names([records.path for records in found])
    pairs = {
        name: _compared(found[0], other, called[0], name) for name, other in zip(called[1:], found[1:], strict=True)
    }
    compared = {name: pair for name, pair in pairs.items() if not isinstance(pair, Text) and pair}
    tests = decided({(name, each.attack): each.pair.p_value for name, pair in compared.items() for each in pair})
    hardest = {name: hardest_of(pair) for name, pair in compared.items()}
    p_values = {(name, mode): p for name, each in hardest.items() for mode, p in each.p_of_modes.items()}
    p_worst = {(name, None): p for name, each in hardest.items() if (p := each.p_of_worst_modes) is not None}
    in_modes = decided({**p_values, **p_worst})
    shown = {name: {mode: in_modes[name, mode][1] for mode in each.per_mode} for name, each in hardest.items()}
    worst = {name: in_modes[name, None][1] for name, _ in p_worst}
    lead = [
        Text(line, "lead")
        for name, each in hardest.items()
        for line in compared_in_words(
            called[0], name, each, tests[name, each.attack][1], shown[name], in_worst=worst.get(name)
        )
    ]
    none = Text("No two of these can be compared; the reasons are below.", "missing")
    return [
        Section("summary", "Summary", lead or [none]),
        Section("side-by-side", "Side by side", _side_by_side(found)),
        Section("modes", "Modes", _modes(called[0], pairs, hardest, shown)),
        Section("differences", "Differences, image by image", _differences(called[0], pairs, tests)),
        Section("recipes", "What differs in the recipes", _recipes(found)),
        Section("training", "Training", [_training(found)]),
        Section("retrieval", "Retrieval", retrieved(found, views)),
    ]


def _training(found: Sequence[Records]) -> Block:
    from protoat.plots.curves import training_curves

    folders = [records.path for records in found if records.run is not None and records.run.metrics]
    if len(folders) < 2:
        return Text("Fewer than two of these runs have a record of training.", "missing")
    about = "Lines over epochs for each run: loss, and accuracy on held-out images; the numbers are below, by run."
    return Chart(training_curves(folders), about)


def _side_by_side(found: Sequence[Records]) -> list[Block]:
    called = names([records.path for records in found])
    measured = [{} if records.evaluation is None else records.evaluation.entries for records in found]
    attacks = dict.fromkeys(name for entries in measured for name in entries if name != WORST_CASE)
    rows: list[list[str | Count]] = [
        [attack, *(entries[attack].count if attack in entries else "—" for entries in measured)]
        for attack in [*attacks, WORST_CASE]
    ]
    subjects = [Judged() if records.evaluation is None else records.evaluation.subject for records in found]
    about = [
        ["images", *(str(subject.images or "—") for subject in subjects)],
        ["data", *(subject.data or "—" for subject in subjects)],
        ["threat", *(str(subject.threat or "—") for subject in subjects)],
        ["audit", *(_audited(records) for records in found)],
    ]
    return [
        Grid("Accuracy % with Wilson's 95 % interval over images", ["attack", *called], rows),
        Text("An attack of one name may have other parameters in another run; only equal ones are compared below."),
        Grid("What was measured", ["", *called], about, text=1 + len(called)),
    ]


def _audited(records: Records) -> str:
    if records.audit is None:
        return "not audited"
    audit = records.audit
    verdict = "failed" if audit.failed else "no check failed" if audit.passed else "incomplete"
    return f"{verdict}, {audit.extent}"


def _modes(
    name: str,
    pairs: Mapping[str, Sequence[Comparison] | Text],
    hardest: Mapping[str, Comparison],
    shown: Mapping[str, Mapping[str, bool]],
) -> list[Block]:
    """What each leaves right of each mode, in the worst case or under the hardest attack."""
    blocks: list[Block] = []
    for other, pair in pairs.items():
        if isinstance(pair, Text):
            blocks.append(pair)
        elif pair and (found := hardest[other]).per_mode:
            caption = f"Accuracy % of each mode, {found.attack}, with Wilson's 95 % interval"
            columns = ["mode", name, other, "difference", "verdict"]
            blocks.append(Grid(caption, columns, mode_rows(found, shown[other])))
    blocks.append(Text(OF_MODES) if any(isinstance(block, Grid) for block in blocks) else Text("No modes are known."))
    return blocks


def _differences(name: str, pairs: Mapping[str, Sequence[Comparison] | Text], tests: _Tests) -> list[Block]:
    blocks: list[Block] = []
    for key, pair in pairs.items():
        if isinstance(pair, Text):
            blocks.append(pair)
        else:
            rows = [pair_row(each, tests[key, each.attack]) for each in pair]
            blocks.append(Grid(f"{name} and {key}, image by image", pair_columns(name, key), rows))
    left_out = "A worst case is left out where one run was attacked in more ways than the other."
    seeds = f"{ONE_RUN_EACH}; protoat compare puts seeds together."
    return [*blocks, Text(f"{pairs_in_words(len(tests))} {left_out} {seeds}")]


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


def _recipes(found: Sequence[Records]) -> list[Block]:
    first, *others = found
    name, *other_names = names([records.path for records in found])
    blocks: list[Block] = []
    for other, other_name in zip(others, other_names, strict=True):
        if first.run is None or other.run is None:
            blocks.append(Text(f"{other_name} against {name}: one of them has no recipe.", "missing"))
            continue
        rows = [each.words for each in differences(first.run.choices, other.run.choices)]
        same = Text(f"{other_name} has the recipe of {name}.")
        blocks.append(Grid(f"{other_name} against {name}", ["key", name, other_name], rows, 3) if rows else same)
    return blocks
