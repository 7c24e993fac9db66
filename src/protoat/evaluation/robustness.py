"""Accuracy under attack, image by image."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from protoat.arguments import check_choice, check_flag, check_kind, check_number, check_whole
from protoat.attacks.examination import Finding, examined, is_examined
from protoat.attacks.precision import AttackPrecision, attacks_in
from protoat.data.given import LabelledImages
from protoat.evaluation.attack_names import Attacks, named_attacks
from protoat.evaluation.attack_precision import chosen_precision
from protoat.evaluation.compiled import CompiledNetwork, is_compiled
from protoat.evaluation.folding import FoldedBatchNorm
from protoat.evaluation.measurement import RIGHT, Advance, Measurement, Saved, parameters_of
from protoat.evaluation.preparation import applicable, check_batch_norm, on_device, prepared
from protoat.evaluation.report import AttackReport, Report, worst_case
from protoat.functional.hidden import hidden_parts_in_eval
from protoat.threats import ThreatModel
from protoat.types import Output

logger = logging.getLogger(__name__)


def evaluate(
    model: nn.Module | Callable[[Tensor], Output | Tensor],
    data: LabelledImages,
    attacks: Attacks,
    *,
    threat: ThreatModel | None = None,
    modes: Any = None,
    batch_size: int = 256,
    limit: int | None = None,
    budget_seconds: float | None = None,
    attack_precision: AttackPrecision | Literal["auto"] = "fp32",
    compile: bool = False,
    device: torch.device | str | None = None,
    accelerator: Accelerator | None = None,
    saved: Saved | None = None,
    advance: Callable[[Advance], None] | None = None,
) -> Report:
    """Measures a model under several attacks on the same images.

    Clean images are always measured too. One that the model gets wrong counts as wrong under every attack and is not
    attacked. Model, gradients and global random state are afterwards as before.

    Images are taken in a fixed order that mixes classes and modes, `batch_size` at a time. Each batch has a generator
    of its own, seeded with ``attack.seed`` and its place in that order, so an outcome depends neither on what was
    measured before nor on which process measures it. When memory runs out, the model takes smaller pieces of the same
    batch, which changes no outcome either. The parts of AutoAttack are measured one after the other, each on batches
    filled anew with the images of the whole data that are still robust, or of each batch within a budget of time.
    Attacks run with batch norm folded into the layers before it, where that is the same function; the model as it is
    judges what they made.

    Args:
        model: images in [0, 1] -> `Output` or logits, any module or function, measured in eval mode. Networks that it
            holds where its ``eval()`` does not reach, as a function does, are put in eval mode too, which is said.
        data: test images with labels: a `DataLoader` or another iterable of batches (pairs, or mappings with ``image``
            and ``label`` or the like); ``(x, y)`` or ``(x, y, modes)`` of tensors or arrays, x (N, C, H, W) in [0, 1]
            or uint8 from 0 to 255; a torch `Dataset`; or `ImageData`. They are read once, in a fixed order, and
            measured at their exact values; a loader that shuffles or augments is warned of.
        attacks: names as on the command line, such as ``"pgd20"`` and ``"aa"``, or attacks, one of them or several; or
            a mapping of names to attacks. ``"clean"`` and None measure clean images.
        threat: norm and radius of the attacks that are given by name; attacks in another norm or with a larger radius
            do not enter the worst case. Default: all enter.
        modes: the known mode (sub-population) of each image, N integers or names, in the order of the data.
        batch_size: images attacked at once; another one draws other random starts.
        limit: measure this many images only, a share of each mode; default all.
        budget_seconds: begin no further batch after this time. All attacks have then seen the same, fewer images.
        attack_precision: ``"bf16"`` lets attacks take gradients of the network in bfloat16, which processors with units
            for it do in half the time or less, and says so in the report. It concerns PGD (of one run), BIM, MIM, PMA,
            APGD and FAB, and the queries of Square that it finds no better, also as a part of AutoAttack and of the
            fast ensemble. The last quarter of each run's steps (FAB: half), every success and every judgement are
            float32; so is all of any other attack, which decides by logits (DeepFool, PGD with restarts, APGD under L1)
            or whose gradient bfloat16 drowns (TPGD), and all of a model whose logits bfloat16 does not resolve.
            ``"auto"`` times a pass of this network, takes the faster one and logs it; with `saved`, a call that goes on
            keeps the choice.
        compile: run the passes of attacks through ``torch.compile``, with CUDA graphs on a GPU, which the report says.
            It takes a minute or so once, and does not pay on a CPU. The model as it is judges. Attacks through batch
            statistics run as they are.
        device: where the model is measured, and moved back from; default where it is.
        accelerator: shares batches over its processes; every process gets the whole report.
        saved: outcomes of batches that need not be measured again; new ones are put there.
        advance: called after each batch.

    Raises:
        TypeError: data or attacks of another form.
        ValueError: no attacks or no images, an attack by name without `threat`, a number below 1, an attack with
            ``bn="train"`` or that such images or so many classes do not allow, a model that cannot take the images,
            whose output does not fit the classes, or is not finite; with `compile`, one that cannot be compiled, or
            whose outputs of an image depend on its batch.

    What makes the numbers mean less is logged and recorded in `Report.findings`. Attacks along gradients are left out
    where the model passes none, and an attack under which the model raises an error is left out with that error.

    >>> from protoat.threats import Linf
    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> loader = DataLoader(TensorDataset(torch.rand(40, 1, 8, 8), torch.arange(40) % 10), batch_size=20)
    >>> report = evaluate(model, loader, ["clean", "pgd10"], threat=Linf(0.3))
    >>> report.worst_case.accuracy == report["pgd10"].accuracy <= report["clean"].accuracy
    True
    """
    _check_options(threat, batch_size, limit, budget_seconds)
    check_choice(Literal["fp32", "bf16", "auto"], attack_precision=attack_precision)
    check_flag(compile=compile)
    wanted = named_attacks(attacks, threat)
    for name, attack in wanted.items():
        check_batch_norm(attack, name)
    with on_device(model, device or (None if accelerator is None else accelerator.device)) as (network, where):
        images, order, found = prepared(network, data, modes, where)
        order = order[:limit]
        wanted, impossible = applicable(wanted, images, found)
        findings = [*found.findings, *impossible]
        for finding in impossible if is_examined() else findings:
            if finding.severity != "note":
                logger.warning("%s: %s", finding.code, finding.text)
        with hidden_parts_in_eval(found.hidden), examined():
            if attack_precision == "auto":
                attack_precision = chosen_precision(network, images, order, wanted.values(), saved)
            with attacks_in(attack_precision, exact_end=True):
                few = images.pixels(order[:4], where)
                stand_in: FoldedBatchNorm | CompiledNetwork = (folded := FoldedBatchNorm(network, few))
                if compile and any(map(is_compiled, wanted.values())):
                    stand_in = CompiledNetwork(network, folded, few, batch_size=batch_size, found=found.findings)
                work = Measurement(network, stand_in, images, wanted, order.split(batch_size), where, saved, advance)
                outcomes, seconds = work.run(accelerator, budget_seconds)
                described = {name: parameters_of(attack, compiled=compile) for name, attack in wanted.items()}
    reports, indices = _reports(work, order, outcomes, seconds, described)
    worst = worst_case(images, indices, reports, threat)
    entering = [wanted[name] for name in worst.parameters["attacks"]]
    if threat is not None and len(reports) > 1 and all(attack is None for attack in entering):
        logger.warning("no attack enters the worst case, which is clean accuracy: none is within %s", threat)
    raised = [Finding("raised", "error", text) for text in work.failed.values()]
    return Report(reports, worst, indices, (*findings, *raised))


def _reports(
    work: Measurement, order: Tensor, outcomes: Tensor, seconds: Tensor, described: Mapping[str, dict[str, Any]]
) -> tuple[dict[str, AttackReport], Tensor]:
    """A report of each attack that raised no error, on the images that all of these saw; and which images."""
    measured = {name: row for row, name in enumerate(work.attacks) if name not in work.failed}
    seen_by_all = (outcomes[[*measured.values()]][:, order] > 0).all(0).int().cumprod(0).sum()
    indices = order[: int(seen_by_all)].sort().values
    reports = {
        name: AttackReport.of(
            work.data,
            indices,
            outcomes[row, indices] == RIGHT,
            described[name],
            float(seconds[row]),
            alarms=work.alarms.get(name),
        )
        for name, row in measured.items()
    }
    return reports, indices


def _check_options(threat: Any, batch_size: Any, limit: Any, budget_seconds: Any) -> None:
    check_whole(batch_size=batch_size)
    if limit is not None:
        check_whole(limit=limit)
    if budget_seconds is not None:
        check_number("(0, inf)", budget_seconds=budget_seconds)
    if threat is not None:
        check_kind(ThreatModel, "such as protoat.Linf(8/255)", threat=threat)
