"""Report sections on provenance: audit, lint, recipe, environment, commands."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from protoat.evaluation import AttackReport, AuditReport, attack_of_name
from protoat.records.files import unlisted
from protoat.reports.blocks import Block, Code, Grid, Text
from protoat.runs.claims import called, is_elsewhere
from protoat.runs.records import Records
from protoat.threats import Linf, ThreatModel


def audit(records: Records) -> list[Block]:
    """Every check with its result and figures."""
    record = records.audit
    if record is None and records.pretrains:
        return [Text("An encoder without a head cannot be audited.", "missing")]
    if record is None:
        return [Text(f"Not audited for masked gradients; do so: protoat audit {called(records.path)}", "missing")]
    made = f"{record.extent} were run."
    verdict = (
        Text(f"The audit failed: {', '.join(record.failed)}. {made}", "warning")
        if record.failed
        else Text(f"No check failed, which rules out common mistakes only. {made}")
    )
    blocks: list[Block] = [verdict]
    if record.incomplete:
        lacks = f"The record was incomplete ({', '.join(record.incomplete)}); add --attacks aa."
        blocks.append(Text(lacks, "missing"))
    blocks += _audited(records, record)
    rows = [[check.id, check.title, check.status, check.reason] for check in record.checks]
    figures = [[check.id, json.dumps(check.figures)] for check in record.checks if check.figures]
    blocks += [
        Grid("Checks of the audit", ["check", "what should hold", "result", "what was found"], rows, 4, status=2),
        Grid("Figures of each check", ["check", "figures"], figures, 2, folded=True),
    ]
    return blocks


def _audited(records: Records, record: AuditReport) -> Iterator[Text]:
    """What was audited, and whether it is what was measured."""
    audited = record.subject
    if audited is None:
        return
    yield Text(f"{record.images} images, {record.threat}, {audited.weights}.")
    if records.evaluation is None:
        return
    measured = records.evaluation.subject.to_json()
    known = {key: value for key, value in audited.to_json().items() if key != "images"}
    if differing := [key for key, value in known.items() if measured.get(key) != value]:
        yield Text(f"The audit is not about what was measured: {', '.join(differing)} differ; audit again.", "warning")


def lint(records: Records) -> list[Block]:
    """What was found before attacking."""
    record = records.evaluation
    leaks = [] if records.run is None else records.run.facts.get("inventory", {}).get("leaks", [])
    if leaks and record is None:
        rows = [["leak", "warning", text] for text in leaks]
        return [Grid("Found in the data", ["rule", "severity", "what was found"], rows, 3)]
    if record is None or record.findings is None:
        return [Text("The lint has not run; protoat evaluate runs it.", "missing")]
    rows = [list(finding) for finding in record.findings]
    if not rows:
        return [Text("The lint found nothing in the latest measurement.")]
    return [Grid("Findings of the latest measurement", ["rule", "severity", "what was found"], rows, 3, status=1)]


def recipe(records: Records) -> list[Block]:
    """The whole recipe."""
    if records.run is None:
        return [Text("There is no recipe: the model is not of a run of protoat.", "missing")]
    return [Code("recipe.yaml", records.run.recipe_text)]


def environment(records: Records) -> list[Block]:
    """Where and with what the run was started, each time; and how it was measured."""
    sessions = records.run.facts.get("sessions", []) if records.run is not None else []
    blocks: list[Block] = []
    if sessions:
        keys = dict.fromkeys(key for session in sessions for key in session)
        columns = ["", *(f"start {number}" for number in range(1, len(sessions) + 1))]
        rows = [[key, *(_value(session.get(key)) for session in sessions)] for key in keys]
        blocks.append(Grid("Training", columns, rows, text=len(columns)))
    else:
        blocks.append(Text("There is no record of where it was trained.", "missing"))
    if without := unlisted(records.path):
        blocks.append(Text(f"Without checksum, as an earlier version wrote them: {', '.join(without)}."))
    if records.evaluation is not None:
        attacks = records.evaluation.attacks
        keys = dict.fromkeys(key for found in attacks.values() for key in found.made_with)
        rows = [[name, *(_value(found.made_with.get(key)) for key in keys)] for name, found in attacks.items()]
        blocks.append(Grid("Measurement", ["attack", *keys], rows, text=1 + len(keys), folded=True))
        subject = [[key, _value(value)] for key, value in records.evaluation.subject.to_json().items()]
        blocks.append(Grid("What was measured, exactly", ["", "value"], subject, 2, folded=True))
    return blocks


def _value(value: Any) -> str:
    if isinstance(value, list):
        return shlex.join(map(str, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value(part)}" for key, part in value.items())
    return "—" if value is None else value if isinstance(value, str) else json.dumps(value)


def redo(records: Records) -> list[Block]:
    """Commands that train and measure the same again."""
    if records.run is None:
        missing = "The record does not say how the model was built, so no command can be given here."
        return [Text(missing, "missing")]
    name, again = called(records.path), f"{records.name}-again"
    config = name if is_elsewhere(name) else str(records.path / "recipe.yaml")
    command = "pretrain" if records.pretrains else "train"
    lines = [shlex.join(["protoat", command, "--config", config, "--out", again]), *_measuring(records, again)]
    sessions = records.run.facts.get("sessions", [])
    if sessions and (commit := sessions[0].get("commit")):
        lines.insert(0, f"# protoat {sessions[0].get('protoat', '')}, commit {commit}")
    blocks: list[Block] = [Code("The same recipe, trained and measured in a new folder", "\n".join(lines))]
    if sessions:
        blocks.append(Code("What was typed", "\n".join(_value(session.get("command")) for session in sessions)))
    return blocks


def _measuring(records: Records, folder: str) -> Iterator[str]:
    """Commands that measure and audit as the records were."""
    folder = shlex.quote(folder)
    if records.run is not None and (probe := records.run.probe) is not None:
        names = shlex.join(probe.attacks)
        yield f"protoat evaluate {folder} --linear-probe --attacks {names} --n {probe.subject.images}"
    if records.evaluation is not None:
        subject, attacks = records.evaluation.subject, records.evaluation.attacks
        asked = {name: _asked(name, found) for name, found in attacks.items()}
        own = [name for name, known in asked.items() if known is None]
        if own:
            yield f"# left out below, as they are classes or settings of your own: {', '.join(own)}"
        names = shlex.join(dict.fromkeys(name for name in asked.values() if name is not None))
        options = [
            f"--weights {subject.weights.partition('.')[0]}",
            f"--attacks {names}",
            f"--n {subject.images}",
        ]
        options += [f"--batch-size {size}" for size in _batch_sizes(attacks)]
        yield f"protoat evaluate {folder} {' '.join([*options, *_threat(subject.threat)])}"
    if records.audit is not None:
        threat = " ".join(["", *_threat(records.audit.threat)])
        yield f"protoat audit {folder} --n {records.audit.images}{threat}"


def _threat(threat: ThreatModel | None) -> list[str]:
    return [] if threat is None else [f"--threat.eps {threat.eps!r}", f"--threat.norm {threat.norm}"]


def _batch_sizes(attacks: Mapping[str, AttackReport]) -> list[int]:
    """The size of batches where every attack had the same; outcomes depend on it."""
    sizes = {found.made_with.get("batch_size") for found in attacks.values()}
    return [size for size in sizes if size is not None] if len(sizes) == 1 else []


def _asked(name: str, found: AttackReport) -> str | None:
    """The name to ask for, or None: AutoAttack is recorded under that of its version, one's own class under its own."""
    if found.parameters.get("attack") == "AutoAttack":
        return "aa" + "".join(name.partition("@")[1:])
    if name.startswith(("adaptive-", "transfer:")):
        return name
    try:
        attack_of_name(name, Linf(0.5))
    except ValueError:
        return None
    return name
