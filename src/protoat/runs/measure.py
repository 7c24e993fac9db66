"""Evaluates a target and writes ``evaluation.json``."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator

from protoat.attacks import Attack, Transfer
from protoat.attacks.examination import Finding, examined
from protoat.attacks.precision import AttackPrecision
from protoat.errors import UserError
from protoat.evaluation import Report, evaluate
from protoat.evaluation.measurement import Advance
from protoat.evaluation.micro_batches import MicroBatched
from protoat.evaluation.preparation import examine_images
from protoat.evaluation.record import Evaluation, Judged
from protoat.evaluation.report import AttackReport, worst_case
from protoat.evaluation.threat_lint import lint
from protoat.records.files import read_evaluation
from protoat.runs.named_attacks import named_attacks
from protoat.runs.records import Records
from protoat.runs.store import Partial, origin, rename_record, write_record
from protoat.runs.subject import Subject
from protoat.runs.threads import on_fitting_threads
from protoat.storage.files import remove
from protoat.storage.locks import working_on
from protoat.training import Interrupted, make_accelerator
from protoat.training.devices import check_processes

logger = logging.getLogger(__name__)

_THREADS = "threads"


def measure(
    subject: Subject,
    attacks: Sequence[str],
    *,
    limit: int | None = None,
    batch_size: int = 256,
    budget_seconds: float | None = None,
    attack_precision: AttackPrecision | Literal["auto"] = "fp32",
    compile: bool = False,
    advance: Callable[[Advance], None] | None = None,
) -> Evaluation:
    """Measures a subject and adds the result to ``evaluation.json`` in its folder.

    Attacks measured before stay in the file when they saw the same weights, images and threat model; a record of
    anything else is kept under another name, which is logged, and comes back when it is continued. Outcomes of each
    batch are kept in ``evaluation.partial`` until the file is written, so the same call goes on where an earlier one
    was killed, and gives the same result. Under ``accelerate launch`` the processes share the batches.

    Args:
        subject: what is judged.
        attacks: see `named_attacks`.
        limit, batch_size, budget_seconds, attack_precision, compile, advance: see `protoat.evaluate`.

    Returns:
        What the record now holds: what was measured, and what was measured before on the same subject and images.

    Raises:
        ValueError: see `named_attacks` and `protoat.evaluate`; or another process is at work on the folder.
        DiskError: a file cannot be written; the record before is intact.
        Interrupted: by the keyboard.
    """
    chosen = named_attacks(attacks, subject)
    if limit is not None and limit > len(subject.data):
        logger.warning("--n %d: there are %d test images, all of them are measured", limit, len(subject.data))
    accelerator = make_accelerator()
    check_processes(accelerator)
    for attack in chosen.values():
        if isinstance(attack, Transfer):
            attack.surrogate.to(accelerator.device)
    with working_on(subject.folder):
        findings = _lint(subject, chosen) if accelerator.is_main_process else []
        partial = Partial(subject.folder / "evaluation.partial", subject.identity)
        few = subject.data.pixels(slice(min(batch_size, limit or batch_size)))
        with _going_on(subject, few, accelerator, partial):
            now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
            made_with = {"measured": now, "batch_size": batch_size, "device": str(accelerator.device), **origin()}
            report = evaluate(
                subject.model,
                subject.data,
                chosen,
                threat=subject.threat,
                batch_size=batch_size,
                limit=limit,
                budget_seconds=budget_seconds,
                attack_precision=attack_precision,
                compile=compile,
                accelerator=accelerator,
                saved=partial,
                advance=advance,
            )
        record = _record(subject, report, findings, made_with)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            _write(subject.folder / "evaluation.json", record)
        accelerator.wait_for_everyone()
        wanted = min(limit or len(subject.data), len(subject.data))
        if len(report.indices) == wanted:
            partial.clear()
        else:
            logger.warning(
                "the budget of %g s ended after %d of %d images; run the same command again to go on",
                budget_seconds,
                len(report.indices),
                wanted,
            )
        return record


@contextmanager
def _going_on(subject: Subject, images: torch.Tensor, accelerator: Accelerator, saved: Partial) -> Iterator[None]:
    """A measurement of an examined subject, on as many threads as suit it; on the same number when it goes on."""
    kept = saved.get(_THREADS)
    threads = None if kept is None else int(kept[1])
    try:
        with examined(), on_fitting_threads(subject.model, images, accelerator, kept=threads) as chosen:
            if chosen is not None and kept is None:
                saved.put(_THREADS, "", float(chosen), ())
            yield
    except KeyboardInterrupt:
        raise Interrupted("interrupted; run the same command again to go on where it stopped", signal.SIGINT) from None


def _lint(subject: Subject, attacks: Mapping[str, Attack | None]) -> list[Finding]:
    """What would spoil the measurement, logged."""
    if not len(subject.data):
        raise UserError("the data holds no images")
    few = torch.arange(min(4, len(subject.data)))
    # Refuses what cannot be measured at all.
    examine_images(MicroBatched(subject.model), subject.data, few, torch.device("cpu"))
    trained_here = "model" not in subject.identity  # a run of ours, on pixels as its recipe says
    findings = list(lint(subject.model, subject.data, subject.threat, attacks, pixels_known=trained_here))
    if subject.inventory is not None:
        findings += [Finding("leak", "warning", text) for text in subject.inventory.leaks]
    for finding in findings:
        level = logging.INFO if finding.severity == "note" else logging.WARNING
        said = "the numbers below will mean nothing" if finding.severity == "error" else finding.severity
        logger.log(level, "%s: %s", said, finding.text)
    return findings


def _record(subject: Subject, report: Report, findings: Sequence[Finding], made_with: Mapping[str, Any]) -> Evaluation:
    """What was measured now, beside what was measured before on the same subject and images."""
    judged = subject.judged(len(report.indices))
    new = {name: replace(found, made_with=made_with) for name, found in report.attacks.items()}
    known = [before.attacks for before in Records(subject.folder).evaluations if before.subject == judged]
    before = dict(known[0]) if known else {}
    coarser = [name for name in new if name in before and _is_coarser(new[name], before[name])]
    if coarser:
        logger.warning("%s: the record keeps what was measured in float32, not in bf16", ", ".join(coarser))
    attacks = before | {name: found for name, found in new.items() if name not in coarser}
    worst = worst_case(subject.data, report.indices, attacks, subject.threat)
    said = {finding.code for finding in findings}
    more = [finding for finding in report.findings if finding.code not in said]
    return Evaluation(judged, attacks, worst, (*findings, *more), len(subject.data))


def _write(path: Path, record: Evaluation) -> None:
    if (before := read_evaluation(path)) is not None:
        _keep_if_lost(path, before, record)
    write_record(path, json.dumps(record.to_json(), indent=1))
    remove(_aside(path, record.subject))  # what it held is now in the record


def _is_coarser(new: AttackReport, before: AttackReport) -> bool:
    """Whether a result of passes in bfloat16 would take the place of one in float32."""
    return "precision" in new.parameters and "precision" not in before.parameters


def _keep_if_lost(path: Path, before: Evaluation, record: Evaluation) -> None:
    """Puts a record aside that the new one does not continue."""
    changed = record.subject.changed(before.subject)
    more = before.subject.images < record.subject.images and all(
        name in record.attacks and not _is_coarser(record.attacks[name], found)
        for name, found in before.attacks.items()
    )
    if not changed or (changed == ["images"] and more):
        return
    kept = _aside(path, before.subject)
    rename_record(path, kept.name)
    logger.warning(
        "%s was of another subject (%s changed) and is now %s; it held %s",
        path,
        ", ".join(changed),
        kept.name,
        ", ".join(before.attacks),
    )


def _aside(path: Path, subject: Judged) -> Path:
    """Where the record of a subject is kept that is not the last one."""
    digest = sha256(json.dumps(subject.to_json(), sort_keys=True).encode()).hexdigest()
    return path.with_name(f"evaluation-{digest[:8]}.json")


def audit_verdict(subject: Subject) -> str:
    """One line: whether ``audit.json`` is about this very subject, and passed."""
    path = subject.folder / "audit.json"
    command = subject.command("audit")
    audit = Records(subject.folder).audit
    if audit is None:
        return f"not audited for masked gradients; do so: {command}"
    if audit.subject != subject.judged(audit.images):
        return f"{path} is of other weights, data or radius; audit again: {command}"
    if audit.passed:
        return f"audit passed, {audit.extent}: {path}"
    if audit.failed:
        return f"audit FAILED ({', '.join(audit.failed)}), {audit.extent}: {path}"
    return (
        f"audit incomplete, the record lacked what is checked by {', '.join(audit.incomplete)}; audit again: {command}"
    )
