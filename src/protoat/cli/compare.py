"""``protoat compare``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from protoat.cli.printing import print_table
from protoat.cli.say import say
from protoat.errors import UserError
from protoat.evaluation.compare import (
    Comparison,
    Seeds,
    check_comparable,
    common_attacks,
    compare,
    decided,
    in_words,
    overlap,
    welch,
)
from protoat.evaluation.record import WORST_CASE, Evaluation
from protoat.plots.records import measured
from protoat.recipes.fingerprint import differences
from protoat.recipes.parser import Parser
from protoat.records.files import read_recipe
from protoat.reports.records import (
    DIFFERENCE,
    OF_MODES,
    ONE_RUN_EACH,
    difference,
    hardest_of,
    holm_in_words,
    mode_rows,
    pair_columns,
    pair_row,
    pairs_in_words,
)
from protoat.runs.claims import A_RUN, called, find_run

_Tests = Mapping[tuple[str, str], tuple[float, bool]]


class _Group(NamedTuple):
    """Runs of one recipe that differ in their seed only; often a single one."""

    name: str
    folders: tuple[Path, ...]
    records: tuple[Evaluation, ...]

    def seeds(self, attack: str, *, in_worst_mode: bool) -> Seeds:
        """What each run leaves right, of all images or of its worst mode."""
        measured = [record[attack] for record in self.records]
        return Seeds(tuple(each.worst_mode[1] if in_worst_mode else each.count for each in measured))


def main(args: list[str]) -> None:
    """Compares evaluations of the same images; the first is what the others are compared with."""
    parser = Parser("protoat compare")
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="RUN",
        help=f"{A_RUN}; or a folder with an evaluation.json. Runs that differ in their seed only are put together",
    )
    folders = list(map(find_run, parser.parse_args(args).folders))
    if len(folders) < 2 or len(set(folders)) < len(folders):
        raise UserError("name at least two different folders to compare")
    records = {folder: _read(folder) for folder in folders}
    check_comparable({called(folder): record for folder, record in records.items()})
    groups = _groups(records)
    first, *others = groups
    singles = [other for other in others if len(first.records) == len(other.records) == 1]
    pairs = [(other, compare(first.records[0], other.records[0])) for other in singles]
    lines = _lines(groups) if any(len(group.records) > 1 for group in groups) else {}
    p_values = {(other.name, each.attack): each.pair.p_value for other, found in pairs for each in found}
    for name, seeds in lines.items():
        for other, own in zip(others, seeds[1:], strict=True):
            if (tested := welch(seeds[0], own)) is not None:
                p_values[other.name, name] = tested[1]
    tests, of_modes = decided(p_values), decided(_p_of_modes(pairs))
    if lines:
        _over_seeds(groups, lines, tests)
    for other, found in pairs:
        _image_by_image(first, other, found, tests, of_modes)
    weights = {group.name: group.records[0].subject.weights for group in groups}
    if len(set(weights.values())) > 1:
        say("weights measured: " + "; ".join(f"{name}: {file}" for name, file in weights.items()))


def _read(folder: Path) -> Evaluation:
    record = measured(folder)
    if record.subject.data_sha256 is None or record.subject.threat is None:
        raise UserError(
            f"{folder / 'evaluation.json'} is of an earlier version; measure again: protoat evaluate {called(folder)}"
        )
    return record


def _groups(records: dict[Path, Evaluation]) -> list[_Group]:
    """Folders of one recipe and distinct seeds together, in the order in which they came."""
    parted: list[list[Path]] = []
    for folder, record in records.items():
        alike = (part for part in parted if all(_differ_by_seed(one, folder, records[one], record) for one in part))
        home = next(alike, None)
        if home is None:
            parted.append([folder])
        else:
            home.append(folder)
    return [
        _Group(
            called(part[0]) if len(part) == 1 else f"{called(part[0])} ({len(part)} seeds)",
            tuple(part),
            tuple(records[folder] for folder in part),
        )
        for part in parted
    ]


def _differ_by_seed(a: Path, b: Path, first: Evaluation, second: Evaluation) -> bool:
    texts = [folder / "recipe.yaml" for folder in (a, b)]
    judged = [(record.subject.more.get("head"), record.subject.weights) for record in (first, second)]
    if not all(path.exists() for path in texts) or judged[0] != judged[1]:
        return False
    different = differences(read_recipe(a), read_recipe(b))  # none of a run and its copy
    return [each.key for each in different] == ["seed"]


def _p_of_modes(pairs: Sequence[tuple[_Group, Sequence[Comparison]]]) -> dict[tuple[str, str, str], float]:
    """Of each mode under the hardest attack, and of the worst modes under every attack."""
    p_values = {}
    for other, found in pairs:
        for mode, p in (hardest_of(found).p_of_modes if found else {}).items():
            p_values[other.name, "mode", mode] = p
        for each in found:
            if (worst := each.p_of_worst_modes) is not None:
                p_values[other.name, "worst mode", each.attack] = worst
    return p_values


def _image_by_image(
    first: _Group,
    other: _Group,
    found: Sequence[Comparison],
    tests: _Tests,
    of_modes: Mapping[tuple[str, str, str], tuple[float, bool]],
) -> None:
    print_table(
        f"{first.name} and {other.name}, {first.records[0].subject.images} images",
        pair_columns(first.name, other.name),
        [pair_row(each, tests[other.name, each.attack]) for each in found],
    )
    rows = []
    for comparison in found:
        if comparison.worst_modes is not None:
            cells = [f"{mode}: {count.in_percent}" for mode, count in comparison.worst_modes]
            shown = of_modes[other.name, "worst mode", comparison.attack][1]
            rows.append([comparison.attack, *cells, in_words(shown)])
    if rows:
        print_table("worst mode", ["attack", first.name, other.name, "verdict"], rows)
        hardest = hardest_of(found)
        in_modes = {mode: of_modes[other.name, "mode", mode][1] for mode in hardest.per_mode}
        print_table(
            f"each mode, {hardest.attack}",
            ["mode", first.name, other.name, "difference", "verdict"],
            [
                [cell if isinstance(cell, str) else cell.in_percent for cell in row]
                for row in mode_rows(hardest, in_modes)
            ],
        )
    say(f"{pairs_in_words(len(tests))} {f'{OF_MODES} ' * bool(rows)}{ONE_RUN_EACH}.")
    _left_out([first, other])


def _left_out(groups: Sequence[_Group]) -> None:
    """Attacks that not every run has with the same parameters, and whether worst cases can be compared."""
    records = {folder: record for group in groups for folder, record in zip(group.folders, group.records, strict=True)}
    common = common_attacks(list(records.values()))
    left_out: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for record in records.values() for name in record.attacks):
        if name not in common:
            lacking = [called(folder) for folder, record in records.items() if name not in record.attacks]
            why = f"not measured in {', '.join(lacking)}" if lacking else "other parameters"
            left_out.setdefault(why, []).append(name)
    for why, names in left_out.items():
        say(f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} not compared: {why}")
    if WORST_CASE not in common:
        say("worst cases are not compared, as they are over different attacks; measure all under the same")


def _lines(groups: Sequence[_Group]) -> dict[str, list[Seeds]]:
    """What the runs of each group leave right, by attack, and where modes are known by attack in the worst mode."""
    records = [record for group in groups for record in group.records]
    attacks = common_attacks(records)
    known = any(records[0][attack].has_modes for attack in attacks)
    return {
        attack + ", worst mode" * in_worst_mode: [group.seeds(attack, in_worst_mode=in_worst_mode) for group in groups]
        for in_worst_mode in (False, True)[: 1 + known]
        for attack in attacks
    }


def _over_seeds(groups: Sequence[_Group], lines: Mapping[str, Sequence[Seeds]], tests: _Tests) -> None:
    first, *others = groups
    print_table(
        "accuracy in %: mean and standard deviation over seeds; of one run, its interval over images",
        ["attack", *(group.name for group in groups)],
        [[name, *map(_spread, seeds)] for name, seeds in lines.items()],
    )
    for group in groups:
        say(f"{group.name}: {', '.join(map(called, group.folders)) if len(group.folders) > 1 else 'one run'}")
    for place, other in enumerate(others, 1):
        if len(first.records) > 1 or len(other.records) > 1:
            print_table(
                f"{first.name} and {other.name}",
                ["attack", *DIFFERENCE, "verdict"],
                [
                    [name, *_difference(seeds[0], seeds[place], tests.get((other.name, name)))]
                    for name, seeds in lines.items()
                ],
            )
    say(
        "difference of means in points, the second less the first; Welch's interval and p over seeds. There is a "
        f"difference where p is below 0.05 after {holm_in_words(len(tests))}. A single run has no spread over seeds, "
        "and that of seeds which all agree is unknown: there is a difference then only where the intervals of the "
        "means, over images at least, do not overlap. All seeds are measured on the same images: this says nothing "
        "about others."
    )
    _left_out(groups)


def _spread(seeds: Seeds) -> str:
    if seeds.deviation is None:
        return seeds.counts[0].in_percent
    return f"{100 * seeds.mean:.1f} ± {100 * seeds.deviation:.1f}"


def _difference(first: Seeds, other: Seeds, test: tuple[float, bool] | None) -> list[str]:
    """Of two recipes, over their seeds; where that cannot be told, whether the intervals of the means overlap."""
    of, tested = other.mean - first.mean, welch(first, other)
    if tested is None or test is None:
        return [f"{100 * of:+.2f}", "", "", "", in_words(not overlap(first.interval, other.interval))]
    return [*difference(of, *tested, test[0]), in_words(test[1])]
