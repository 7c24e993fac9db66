"""Audit checks of a recorded evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from protoat.evaluation.masking_audit.check import NO_RECORD, Check, Verdict, complete, judged, not_run
from protoat.evaluation.masking_audit.context import AuditContext
from protoat.evaluation.record import Evaluation

Parameters = Mapping[str, Any]
_KINDS = {
    "cross-entropy": ("cross_entropy",),
    "margin or DLR": ("margin", "capped_margin", "dlr", "APGDT"),
    "minimal norm": ("FAB", "FABT", "CarliniWagnerL0", "CarliniWagnerL2", "CarliniWagnerLinf", "DeepFool"),
    "gradient-free": ("Square",),
}
_SINGLE_STEP = ("FGSM", "FFGSM", "RFGSM")


def _clean(context: AuditContext) -> Verdict:
    clean = [found.count for found in context.recorded.attacks.values() if found.parameters["attack"] is None]
    if not clean:
        return complete(False, "clean accuracy is not in the record; measure it: --attacks clean")
    right, total = clean[0]
    return complete(True, f"clean accuracy is {right / total:.1%}", images=total, clean=right)


def _worst_case(context: AuditContext) -> Verdict:
    record = context.recorded
    worst = record.worst_case
    if worst is None:
        return not_run(NO_RECORD)
    entering = torch.stack([record.attacks[name].correct_mask for name in record.entering])
    expected = entering.all(0)
    wrong = int((expected != worst.correct_mask).sum())
    least = int(entering.sum(1).min())
    reported, total = worst.count
    reason = f"reported {reported} of {total}; the strongest attack alone leaves {least}"
    right = wrong == 0 and reported == int(expected.sum()) <= least
    trouble = f"; {wrong} images are not counted by their worst attack" if wrong else ""
    return judged(right, reason + trouble, images=total, worst_case=reported, strongest=least, wrong=wrong)


def _diverse(context: AuditContext) -> Verdict:
    found = {word for parameters in _attacks(context.recorded) for word in _words(parameters)}
    missing = [kind for kind, words in _KINDS.items() if not found.intersection(words)]
    reason = f"no attack of the kind {', '.join(missing)}; measure aa" if missing else "all four kinds of attacks"
    return complete(not missing, reason, missing=missing)


def _beyond_training(context: AuditContext) -> Verdict:
    def known(parameters: Parameters) -> bool:
        trained = context.training is not None and all(
            parameters.get(key) == context.training.get(key) for key in ("attack", "steps", "step_size", "loss")
        )
        return trained or parameters["attack"] in _SINGLE_STEP

    new = sum(not known(parameters) for parameters in _attacks(context.recorded))
    reason = f"{new} attacks are neither single-step nor the one of training" + "; measure aa" * (new == 0)
    return complete(new > 0, reason, attacks=new)


def _parameters_are_there(context: AuditContext) -> Verdict:
    missing = {}
    for parameters in _attacks(context.recorded):
        needed = {"norm", "eps", "seed", "bn"}
        if "steps" in parameters:
            needed |= {"steps"}
        if "step_size" in parameters:
            needed |= {"loss"}
        if lacking := sorted(needed - parameters.keys()):
            missing[parameters["attack"]] = lacking
    reason = f"not in the record: {missing}" if missing else "radius, norm, seed and batch norm of every attack"
    return complete(not missing, reason, missing=missing)


def _attacks(record: Evaluation) -> Iterator[Parameters]:
    """Parameters of every attack that made images, those that others consist of in their place."""
    for found in record.attacks.values():
        yield from _parts(found.parameters)


def _parts(parameters: Parameters) -> Iterator[Parameters]:
    inner = [parameters["of"]] if "of" in parameters else list(parameters.get("parts", {}).values())
    for part in inner:
        yield from _parts(part)
    if not inner and parameters["attack"] is not None:
        yield parameters


def _words(parameters: Parameters) -> Iterator[str]:
    """Name of the attack and of its loss."""
    yield str(parameters["attack"])
    yield str(parameters.get("loss", "")).partition("(")[0].rpartition(".")[2]


CHECKS = (
    Check("C1", "clean accuracy is reported", _clean, False, absent="incomplete"),
    Check("C6", "the worst case is taken image by image", _worst_case, False, absent="not run"),
    Check("C10", "attacks of every kind", _diverse, False, absent="incomplete"),
    Check("C11", "more than single steps and the attack of training", _beyond_training, False, absent="incomplete"),
    Check("C19", "every parameter is recorded", _parameters_are_there, False, absent="incomplete"),
)
