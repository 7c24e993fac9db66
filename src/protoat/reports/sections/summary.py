"""The summary of a report, and what is missing from the records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from protoat.evaluation.compare import Comparison, in_words
from protoat.evaluation.record import WORST_CASE, Evaluation
from protoat.evaluation.statistics import Count, percentage, weakest_first
from protoat.reports.blocks import Block, Cards, Grid, Text
from protoat.runs.claims import called
from protoat.runs.records import Records, RunRecords
from protoat.threats import ThreatModel


def summary(records: Records) -> list[Block]:
    """What was found in plain words, the decisive figures, what they are about, and what is missing."""
    return [
        *_in_words(records.evaluation),
        *_headline(records.evaluation),
        *_missing(records),
        Grid("What was judged", ["", "value"], list(_subject(records)), text=2, folded=True),
    ]


def _in_words(record: Evaluation | None) -> Iterator[Text]:
    """The weakest mode, or class, first: it is what a user of the model meets."""
    if record is None or record.worst_case is None:
        return
    case = record.worst_case
    kind, counts = ("mode", case.per_mode) if case.has_modes else ("class", case.per_class)
    clean = record.attacks.get("clean")
    order = weakest_first(counts)
    name, best = order[0], order[-1]
    without = None if clean is None else (clean.per_mode if case.has_modes else clean.per_class).get(name)
    beside = "" if without is None else f", and {_percent(without)} without an attack"
    yield Text(
        f"Your weakest {kind} is {name}: {_with_interval(counts[name])} of its {counts[name].total} images stay right "
        f"under attack, the lowest of {len(order)} in this measurement{beside}."
        + f" Your strongest is {best}, with {_percent(counts[best])} under attack."
        * (name != best),
        "lead",
    )


def compared_in_words(
    name: str, other: str, hardest: Comparison, shown: bool, in_modes: Mapping[str, bool], *, in_worst: bool | None
) -> Iterator[str]:
    """What two runs leave right of all images, of the mode in which the first is lowest, and of that of the second.

    Args:
        name, other: of the runs.
        hardest: their comparison in the worst case, or under the hardest attack.
        shown: whether the test of all images shows a difference.
        in_modes: whether one is shown, by mode, after correction for all that are compared.
        in_worst: whether one is shown between the two worst modes, after the same correction; None without modes.
    """
    where = "in the worst case" if hardest.attack == WORST_CASE else f"under {hardest.attack}"
    if hardest.worst_modes is not None:
        (mode, first), (weakest, count) = hardest.worst_modes
        second = hardest.per_mode[mode][1]
        own = f"{weakest}: {_with_interval(count)}; of the two weakest {in_words(bool(in_worst))}"
        yield (
            f"The weakest mode of {name} in this measurement is {mode}: {_with_interval(first)} {where}; with {other} "
            f"it is {_with_interval(second)}: {in_words(in_modes[mode])}, corrected for all modes compared here. "
            f"The weakest mode of {other} is {'the same' if mode == weakest else own}. The "
            f"mode was chosen by this very measurement, which favours {other}."
        )
    yield (
        f"Of all {hardest.first.total} images {name} leaves {_with_interval(hardest.first)} right {where}, and {other} "
        f"{_with_interval(hardest.second)}: {in_words(shown)}."
    )


def _percent(count: Count) -> str:
    return f"{100 * count.accuracy:.1f} %"


def _with_interval(count: Count) -> str:
    return percentage(count.accuracy, count.interval, beside=" %")


def _headline(record: Evaluation | None) -> Iterator[Cards]:
    if record is None or record.worst_case is None:
        return
    case, attacks = record.worst_case, record.entering
    class_name, class_count = case.worst_class
    cards = [
        ("under attack", case.count, f"right under every one of {len(attacks)} attacks"),
        ("weakest class", class_count, f"{class_name}, under attack"),
    ]
    if case.has_modes:
        mode_name, mode_count = case.worst_mode
        cards.append(("weakest mode", mode_count, f"{mode_name}, under attack; the lowest of {len(case.per_mode)}"))
    if "clean" in record.attacks:
        cards.insert(0, ("clean", record["clean"].count, "without an attack"))
    yield Cards(cards)


def described(run: RunRecords) -> dict[str, str]:
    """Data, model, method, regularizer, what else was chosen, and length of a run in words."""
    names = {key: run.chosen(key).rpartition(".")[2] for key in ("data", "model", "method", "regularizer")}
    optional = {key: run.chosen(key).rpartition(".")[2] for key in ("head", "modes", "weighting")}
    names |= {key: name for key, name in optional.items() if name != "none"}
    groups = run.choices.get("groups")
    if groups is not None:
        joined = groups if isinstance(groups, int | str) else len(groups)
        names["data"] += f", classes joined: {joined}"
    return names | {"epochs": run.progress, "seed": str(run.choices.get("seed", "?"))}


def trained_for(run: RunRecords) -> dict[str, str]:
    """The threat model of a run's training in words, where its recipe says it."""
    threat = run.choices.get("threat") or {}
    return {"trained for": str(ThreatModel.from_json(threat))} if {"norm", "eps"} <= threat.keys() else {}


def _subject(records: Records) -> Iterator[tuple[str, str]]:
    yield "folder", called(records.path)
    if records.run is not None:
        yield from described(records.run).items()
        yield from trained_for(records.run).items()
        if shape := records.run.facts.get("shape"):
            yield "images", f"{' x '.join(map(str, shape))}, {records.run.facts.get('train_images')} for training"
        if best := records.run.best:
            yield "best epoch", f"{best.epoch}; on {best.held_out.images} held-out images: {best.held_out}"
    if records.evaluation is not None:
        subject = records.evaluation.subject
        if "model" in subject.more:
            yield "model", subject.more["model"]
        yield "measured", f"{subject.weights}, {subject.images} images of {subject.data}"
        if subject.threat is not None:
            yield "measured for", str(subject.threat)
        if "head" in subject.more:
            yield "predicted by", subject.more["head"]


def _missing(records: Records) -> Iterator[Text]:
    """What a reader must know is not there, or not as it should be."""
    run, record = records.run, records.evaluation
    if not records.complete:
        yield Text("Training has not finished; the command that started it resumes it.", "warning")
    if record is None and run is not None and run.pretrains and run.probe is not None:
        yield Text("A pre-trained encoder without a head; the accuracies of linear heads on it are below.")
    elif record is None:
        command = run.measuring if run is not None else "protoat evaluate"
        yield Text(f"Not measured: there is no evaluation.json. Measure it: {command}", "missing")
    else:
        yield from _unmeasured(records, record)
    if records.outdated:
        yield Text(
            f"The evaluation is of earlier weights; measure again: protoat evaluate {called(records.path)}", "warning"
        )
    if records.audit is None and not records.pretrains:
        yield Text(f"Not audited for masked gradients; do so: protoat audit {called(records.path)}", "missing")
    elif records.audit is not None and not (audit := records.audit).passed:
        verdict = f"failed: {', '.join(audit.failed)}" if audit.failed else "is incomplete"
        yield Text(f"The audit {verdict}; read it below before you trust any number.", "warning")
    if run is not None:
        yield Text("One run, one seed: intervals cover the sampling of images, not the spread between seeds.")


def _unmeasured(records: Records, record: Evaluation) -> Iterator[Text]:
    entering = record.entering
    kinds = {str(record.attacks[name].parameters.get("attack")) for name in entering}
    if "AutoAttack" not in kinds:
        yield Text("No AutoAttack: robust accuracy is an upper bound, and without it probably a loose one.", "missing")
    choices, facts = ({}, {}) if records.run is None else (records.run.choices, records.run.facts)
    has_prototypes = any("prototypes" in str(choices.get(key)) for key in ("head", "regularizer"))
    has_prototypes |= "prototypes_per_class" in facts  # of modes
    if has_prototypes and not any(name.startswith("adaptive") for name in entering):
        yield Text("No attack that knows the prototypes was run; add: --attacks adaptive", "missing")
    if any(finding.severity == "error" for finding in record.findings or ()):
        yield Text("The lint found errors that make these numbers meaningless; see below.", "warning")
