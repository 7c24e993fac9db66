"""Audits a target and writes ``audit.json``."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from protoat.attacks import Attack
from protoat.evaluation.masking_audit import AuditReport, Surrogate, audit
from protoat.evaluation.record import Evaluation
from protoat.methods import Method, Standard
from protoat.runs.named_attacks import has_prototypes, named_attacks, surrogate_run
from protoat.runs.records import Records
from protoat.runs.run import Run
from protoat.runs.store import origin, write_record
from protoat.runs.subject import Subject
from protoat.runs.threads import on_fitting_threads
from protoat.storage.locks import working_on
from protoat.training import make_accelerator


def audit_subject(
    subject: Subject,
    *,
    images: int = 1000,
    batch_size: int = 250,
    surrogates: Sequence[Path | str] = (),
    only: Collection[str] | None = None,
    keep_fuller: bool = False,
    advance: Callable[[str, str], None] | None = None,
) -> AuditReport:
    """Audits a subject and writes ``audit.json`` into its folder, tied to its weights and data.

    What lies in the folder is used: the last evaluation of this very subject for the checks of what was reported, and
    the recipe for the attack of training. Prototypes, of SoftTriple or of a head, are attacked as well.

    Args:
        subject: what is judged.
        images, batch_size, only, advance: see `protoat.evaluation.masking_audit.report.audit`.
        surrogates: run folders to transfer from; those of the method `Standard` count as undefended.
        keep_fuller: leave an audit of more of the subject where it is, see `fuller_audit`.

    Raises:
        ValueError: see `audit` and `surrogate_run`; or another process is at work on the folder.
        DiskError: the file cannot be written; the one before is intact.
    """
    accelerator = make_accelerator()
    device = accelerator.device
    few = subject.data.pixels(slice(min(batch_size, images)))
    with working_on(subject.folder), on_fitting_threads(subject.model, few, accelerator):
        _ = Records(subject.folder).audit  # a damaged one is said before the work
        report = audit(
            subject.model,
            subject.data,
            subject.threat,
            images=images,
            batch_size=batch_size,
            adaptive=_adaptive(subject),
            surrogates=[_surrogate(folder, subject, device) for folder in surrogates],
            record=_record(subject),
            training=_training(subject.folder),
            only=only,
            device=device,
            advance=advance,
        )
        report = replace(report, subject=subject.judged(report.images), test_images=len(subject.data))
        content = {**report.to_json(), **origin()}
        if not keep_fuller or fuller_audit(subject, report) is None:
            write_record(subject.folder / "audit.json", json.dumps(content, indent=1))
    return report


def fuller_audit(subject: Subject, report: AuditReport) -> AuditReport | None:
    """The audit in the folder where it is of the same subject and has more checks or images; None otherwise."""
    before = Records(subject.folder).audit
    if before is None or before.subject != subject.judged(before.images):
        return None
    return before if before.made > report.made or before.images > report.images else None


def _adaptive(subject: Subject) -> dict[str, Attack]:
    if not has_prototypes(subject):
        return {}
    return {name: attack for name, attack in named_attacks(["adaptive20"], subject).items() if attack is not None}


def _surrogate(folder: Path | str, subject: Subject, device: torch.device) -> Surrogate:
    run = surrogate_run(folder, subject)
    return Surrogate(str(folder), run.model.to(device), isinstance(_method(run), Standard))


def _method(run: Run) -> Method:
    return run.recipe.method(run.recipe.threat)


def _record(subject: Subject) -> Evaluation | None:
    """The last evaluation of this very subject and threat model, if there is one."""
    judged = subject.judged(0)
    return next((record for record in Records(subject.folder).evaluations if record.subject.is_like(judged)), None)


def _training(folder: Path) -> dict[str, Any] | None:
    """Parameters of the attack that a run was trained against."""
    attack = getattr(_method(Run(folder)), "attack", None) if (folder / "recipe.yaml").exists() else None
    return attack.parameters() if isinstance(attack, Attack) else None
