"""The gradient-masking audit: runs its checks and reports the outcome."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import Any

import torch
from torch import nn

from protoat.attacks import Attack
from protoat.attacks.examination import Finding, examined
from protoat.data.given import LabelledImages
from protoat.errors import UserError
from protoat.evaluation.masking_audit import gradient_checks, model_checks, record_checks
from protoat.evaluation.masking_audit.check import NO_RECORD, Check, Status, Verdict, not_run
from protoat.evaluation.masking_audit.context import AuditContext, Surrogate
from protoat.evaluation.preparation import on_device, prepared
from protoat.evaluation.record import Evaluation, Judged
from protoat.functional.forward import as_module
from protoat.functional.hidden import hidden_parts_in_eval
from protoat.threats import ThreatModel

NOT_ASKED = "was not asked for"


def _place(check: Check) -> tuple[str, int]:
    return check.id[0], int(check.id[1:])


CHECKS = tuple(sorted((*gradient_checks.CHECKS, *model_checks.CHECKS, *record_checks.CHECKS), key=_place))


@dataclass(frozen=True)
class CheckResult:
    """What one check found.

    Attributes:
        id: ``A1`` to ``A5``, the symptoms of Athalye et al.; ``C1`` to ``C22``, the checklist of Carlini et al.
        title: what holds where it passes.
        status: ``"pass"``, ``"fail"``, ``"incomplete"`` where only the record lacks something, or ``"not run"``.
        figures: JSON values; a count under the name of an attack is how many of ``images`` it leaves right.
        reason: one line with the decisive figures, or what is missing.
        seconds: time it took; attacks that several checks look at are charged to the first.
    """

    id: str
    title: str
    status: Status
    figures: dict[str, Any]
    reason: str
    seconds: float


@dataclass(frozen=True)
class AuditReport:
    """All checks of one model.

    Attributes:
        checks: by number.
        images: how many the attacks saw.
        threat: norm and radius.
        findings: what a look at the model showed before any check.
        subject: in a record, whose weights were audited, on which images.
        test_images: in a record, how many there are.
    """

    checks: tuple[CheckResult, ...]
    images: int
    threat: ThreatModel
    findings: tuple[Finding, ...] = ()
    subject: Judged | None = None
    test_images: int | None = None

    @property
    def passed(self) -> bool:
        """No check failed, and the record lacks nothing that a check looks for; those that did not run say nothing."""
        return not self.failed and not self.incomplete

    @property
    def failed(self) -> list[str]:
        """Numbers of the checks that failed."""
        return self._with("fail")

    @property
    def incomplete(self) -> list[str]:
        """Numbers of the checks that miss something in the record."""
        return self._with("incomplete")

    def _with(self, status: Status) -> list[str]:
        return [check.id for check in self.checks if check.status == status]

    def __getitem__(self, number: str) -> CheckResult:
        return next(check for check in self.checks if check.id == number)

    @property
    def silent(self) -> list[str]:
        """Numbers of the checks that were not run."""
        return self._with("not run")

    @property
    def made(self) -> int:
        """How many checks were run."""
        return len(self.checks) - len(self.silent)

    @property
    def extent(self) -> str:
        """How many checks were run, of how many, on how many images.

        >>> checks = (CheckResult("C1", "", "pass", {}, "", 0.0), CheckResult("C2", "", "not run", {}, "", 0.0))
        >>> AuditReport(checks, 50, ThreatModel(0.1)).extent
        '1 of 2 checks on 50 images'
        """
        return f"{self.made} of {len(self.checks)} checks on {self.images} image{'s' * (self.images != 1)}"

    def to_json(self) -> dict[str, Any]:
        """``{"passed", "images", "threat", "checks": [{"id", "title", "status", "figures", "reason", "seconds"}]}``."""
        content = {
            "passed": self.passed,
            "images": self.images,
            "threat": self.threat.to_json(),
            "lint": [found._asdict() for found in self.findings],
            "checks": [{**vars(check), "seconds": round(check.seconds, 3)} for check in self.checks],
        }
        if self.subject is None:
            return content
        subject = {key: value for key, value in self.subject.to_json().items() if key not in ("images", "threat")}
        return {"subject": subject, "test_images": self.test_images, **content}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> AuditReport:
        """What `to_json` gave, or an earlier version wrote."""
        threat, known = content["threat"], [entry.name for entry in fields(CheckResult)]
        checks = [{"seconds": 0.0, **check} for check in content["checks"]]
        return cls(
            tuple(CheckResult(**{key: check[key] for key in known}) for check in checks),
            content["images"],
            ThreatModel.from_json(threat),
            tuple(Finding(**found) for found in content.get("lint", ())),
            Judged.from_json({**content.get("subject", {}), "images": content["images"], "threat": threat}),
            content.get("test_images"),
        )


def expected_progress(images: int, *, only: Collection[str] | None = None) -> dict[str, float]:
    """The share of the time of an audit that has passed before each check.

    Args:
        images, only: see `audit`.

    Raises:
        ValueError: an unknown number.

    >>> expected_progress(1000, only=["A1", "C2"])["C2"]  # A1 is quicker: it takes 1.5 where C2 takes 3.3
    0.3125
    """
    chosen = _numbers(only or None)
    # Attacks are charged to the first check that needs them.
    shares = [(check.fixed + check.growing * images / 1000) * (check.id in chosen) for check in CHECKS]
    return {check.id: done / sum(shares) for check, done in zip(CHECKS, accumulate(shares, initial=0.0), strict=False)}


def audit(
    model: nn.Module,
    data: LabelledImages,
    threat: ThreatModel,
    *,
    modes: Any = None,
    images: int = 1000,
    batch_size: int = 250,
    adaptive: Mapping[str, Attack] | None = None,
    surrogates: Sequence[Surrogate] = (),
    record: Evaluation | Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    only: Collection[str] | None = None,
    device: torch.device | str | None = None,
    advance: Callable[[str, str], None] | None = None,
) -> AuditReport:
    """Looks for masked gradients and for holes in what was reported.

    Passing proves nothing: it says that the usual ways to look robust without being so were not found. A check fails
    where a figure is beyond its limit by more than chance explains (one-sided, 5 %), counted on the images that two
    attacks disagree on. Radii are multiples of the radius of the threat model, so that the checks mean the same on
    MNIST at 0.3 and on CIFAR10 at 8/255. Model, gradients and global random state are afterwards as before.

    Args:
        model: images in [0, 1] -> `Output` or logits, in the mode in which it is used.
        data, modes: test images, see `protoat.evaluate`.
        threat: norm and radius.
        images: how many are attacked, a share of each mode; the most expensive attacks see the first 250 of them.
        batch_size: images attacked at once.
        adaptive: attacks that know the defence, by name, such as `protoat.attacks.adaptive_attacks`.
        surrogates: other models to transfer from.
        record: the evaluation of this very model, data and threat model, or what its `to_json` gives.
        training: `Attack.parameters` of the attack that the model was trained against.
        only: numbers of the checks to run; the others are not run. Default: all.
        device: where the model is examined, and moved back from; default where it is.
        advance: called with a check's number and the name of an attack, before that runs.

    Raises:
        ValueError: no images, an unknown number; see also `protoat.evaluate`.

    Source: Athalye, Carlini and Wagner, ICML 2018, section 3.1 (A1 to A5); Carlini et al. 2019, "On evaluating
    adversarial robustness" (C1 to C22). Limits and what to do are in docs/audit.md.

    >>> from protoat.data import Digits
    >>> from protoat.threats import Linf
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    >>> report = audit(net, Digits().load("test"), Linf(0.1), images=50, only=["C15", "C16"])
    >>> report["C16"].status, report["C15"].reason
    ('pass', 'the model answers alike twice, in any batch, and in the mode in which it came')
    """
    chosen = _numbers(only)
    at = ""

    def starts(attack: str) -> None:
        if advance is not None:
            advance(at, attack)

    network = as_module(model)
    with on_device(network, device) as (pieces, where):
        looked, _, found = prepared(pieces, data, modes, where)
        context = AuditContext(
            network,
            looked,
            threat,
            found,
            images=images,
            batch_size=batch_size,
            adaptive=adaptive or {},
            surrogates=surrogates,
            record=Evaluation.from_json(record) if isinstance(record, Mapping) else record,
            training=training,
            advance=starts,
        )
        with examined(), hidden_parts_in_eval(found.hidden):
            results = []
            for check in CHECKS:
                at = check.id
                results.append(_result(check, context, asked=at in chosen))
    return AuditReport(tuple(results), len(context), threat, found.findings)


def _numbers(only: Collection[str] | None) -> set[str]:
    """Numbers of the checks to run."""
    known = [check.id for check in CHECKS]
    if unknown := sorted(set(only or ()) - set(known)):
        raise UserError(f"check {unknown[0]!r} is unknown; write one of {', '.join(known)}")
    return set(known if only is None else only)


def _result(check: Check, context: AuditContext, *, asked: bool) -> CheckResult:
    started = time.perf_counter()
    if not asked:
        verdict = not_run(NOT_ASKED)
    elif check.follows_gradients and not context.differentiable:
        verdict = not_run("needs gradients, and none come back to the image; see C16")
    elif check.absent is not None and context.record is None:
        verdict = Verdict(check.absent, NO_RECORD, {})
    else:
        verdict = check.run(context)
    seconds = time.perf_counter() - started
    return CheckResult(check.id, check.title, verdict.status, verdict.figures, verdict.reason, seconds)
