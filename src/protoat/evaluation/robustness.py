"""Accuracy under attack, image by image, in batches that can be interrupted, repeated and shared out."""

from __future__ import annotations

import itertools
import json
import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from protoat.arguments import check_kind, check_number, check_whole
from protoat.attacks import Attack, AutoAttack
from protoat.attacks.base import Problem, attacking
from protoat.attacks.examination import Examination, Finding, examine, examined, is_examined
from protoat.attacks.watched import check_logits
from protoat.data import ImageData
from protoat.errors import UserError
from protoat.evaluation.folding import FoldedBatchNorm
from protoat.evaluation.order import fair_order
from protoat.evaluation.pieces import InPieces
from protoat.evaluation.report import AttackReport, Report, worst_case
from protoat.functional.distributed import mean_over_processes
from protoat.functional.forward import as_module
from protoat.functional.hidden import hidden_modules, hidden_parts_in_eval
from protoat.functional.kept import random_state_kept
from protoat.functional.prediction import predicted
from protoat.threats import ThreatModel
from protoat.types import Output

__all__ = ["Advance", "Saved", "check_batch_norm", "evaluate", "look_at"]

logger = logging.getLogger(__name__)


class Advance(NamedTuple):
    """How far a measurement is after a batch.

    Attributes:
        attack: what the batch was measured under.
        images, correct: of this batch, and how many of them stay right.
        done, total: images measured so far by this process and to be measured, each counted for every attack.
    """

    attack: str
    images: int
    correct: int
    done: int
    total: int


class Saved(Protocol):
    """Where the outcome of each batch is kept until a measurement is complete."""

    def get(self, key: str) -> tuple[str, float] | None:
        """Outcomes and seconds that were put under this key, or None."""

    def put(self, key: str, outcomes: str, seconds: float) -> None:
        """Keeps the outcomes of a batch, ``1`` for each image that stays right, and the seconds it took."""


def evaluate(
    model: nn.Module | Callable[[Tensor], Output | Tensor],
    data: ImageData,
    attacks: Mapping[str, Attack | None],
    *,
    threat: ThreatModel | None = None,
    batch_size: int = 256,
    limit: int | None = None,
    budget_seconds: float | None = None,
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
    batch, which changes no outcome either. Attacks run with batch norm folded into the layers before it, where that is
    the same function; the model as it is judges what they made.

    Args:
        model: images in [0, 1] -> `Output` or logits, any module or function, measured in eval mode. Networks that it
            holds where its ``eval()`` does not reach, as a function does, are put in eval mode too, which is said.
        data: test images with classes and modes.
        attacks: by name; None measures clean images.
        threat: attacks in another norm or with a larger radius do not enter the worst case; default: all enter.
        batch_size: images attacked at once; another one draws other random starts.
        limit: measure this many images only, a share of each mode; default all.
        budget_seconds: begin no further batch after this time. All attacks have then seen the same, fewer images.
        device: where the model is measured, and moved back from; default where it is.
        accelerator: shares batches over its processes; every process gets the whole report.
        saved: outcomes of batches that need not be measured again; new ones are put there.
        advance: called after each batch.

    Raises:
        TypeError: data that is no `ImageData`, or attacks that are no mapping of names to attacks.
        ValueError: no attacks or no images, a number below 1, an attack with ``bn="train"`` or that such images or so
            many classes do not allow, a model that cannot take the images, whose output does not fit the classes, or is
            not finite.

    What makes the numbers mean less is logged and stands in `Report.findings`. Attacks along gradients are left out
    where the model passes none, and an attack under which the model raises an error is left out with that error.

    >>> from protoat.data import Digits
    >>> from protoat.threats import Linf
    >>> from protoat.attacks import PGD
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> report = evaluate(net, Digits().load("test"), {"pgd2": PGD(Linf(0.1), steps=2)}, limit=100)
    >>> report.worst_case.accuracy == report["pgd2"].accuracy <= report["clean"].accuracy
    True
    """
    if not isinstance(data, ImageData):
        raise TypeError(f"data is a {type(data).__name__}, expected protoat.data.ImageData")
    _check_attacks(attacks)
    check_whole(batch_size=batch_size)
    if limit is not None:
        check_whole(limit=limit)
    if budget_seconds is not None:
        check_number("(0, inf)", budget_seconds=budget_seconds)
    if threat is not None:
        check_kind(ThreatModel, "such as protoat.Linf(8/255)", threat=threat)
    if not len(data):
        raise UserError("the data holds no images")
    attacks = attacks if None in attacks.values() else {"clean": None, **attacks}
    order = fair_order(data)[:limit]
    with _in_place(model, device or (None if accelerator is None else accelerator.device)) as (network, where):
        found = look_at(network, data, order[:4], where)
        findings = list(found.findings)
        attacks, impossible = _possible(attacks, data, found)
        findings += impossible
        for finding in impossible if is_examined() else findings:
            if finding.severity != "note":
                logger.warning("%s: %s", finding.code, finding.text)
        with hidden_parts_in_eval(found.hidden), examined():
            folded = FoldedBatchNorm(network, data.images[order[:4]].to(where).float() / 255)
            job = _Job(network, folded, data, attacks, order.split(batch_size), where, saved, advance)
            outcomes, seconds = job.run(accelerator, budget_seconds)
    if job.failed:
        attacks = {name: attack for name, attack in attacks.items() if name not in job.failed}
        outcomes, seconds = (part[[name not in job.failed for name in job.attacks]] for part in (outcomes, seconds))
        findings += [Finding("raised", "error", text) for text in job.failed.values()]
    seen_by_all = (outcomes[:, order] > 0).all(0).int().cumprod(0).sum()
    indices = order[: int(seen_by_all)].sort().values
    reports = {
        name: AttackReport.of(data, indices, outcome[indices] == _RIGHT, _parameters(attack), float(took))
        for (name, attack), outcome, took in zip(attacks.items(), outcomes, seconds, strict=True)
    }
    worst = worst_case(data, indices, reports, threat)
    if threat is not None and len(attacks) > 1 and all(attacks[name] is None for name in worst.parameters["attacks"]):
        logger.warning(
            "no attack enters the worst case, which is clean accuracy: none is %s within %g", threat.norm, threat.eps
        )
    return Report(reports, worst, indices, tuple(findings))


_WRONG, _RIGHT = 1, 2  # 0: not measured


@dataclass
class _Job:
    """All batches under all attacks, and what is known about them."""

    network: InPieces
    folded: FoldedBatchNorm
    data: ImageData
    attacks: Mapping[str, Attack | None]
    batches: Sequence[Tensor]
    device: torch.device
    saved: Saved | None
    advance: Callable[[Advance], None] | None
    failed: dict[str, str] = field(default_factory=dict)

    def run(self, accelerator: Accelerator | None, budget_seconds: float | None) -> tuple[Tensor, Tensor]:
        """Outcomes (attacks, N), as numbers above, and seconds (attacks,), of all processes together."""
        started = time.perf_counter()
        outcomes = torch.zeros(len(self.attacks), len(self.data), dtype=torch.int8)
        seconds = torch.zeros(len(self.attacks), dtype=torch.float64)
        rank, processes = (0, 1) if accelerator is None else (accelerator.process_index, accelerator.num_processes)
        own = range(rank, len(self.batches), processes)
        total, done = len(self.attacks) * sum(len(self.batches[place]) for place in own), 0
        # Clean images first: what is wrong already is not attacked.
        rows = sorted(enumerate(self.attacks.items()), key=lambda item: item[1][1] is not None)
        for place in own:
            if place != rank and budget_seconds is not None and time.perf_counter() - started > budget_seconds:
                break
            standing = torch.ones(len(self.batches[place]), dtype=torch.bool)
            for row, (name, attack) in rows:
                if name in self.failed:
                    continue
                try:
                    correct, took = self._outcome(place, name, attack, standing)
                except Exception as error:
                    # Other processes would wait for this one; without clean images there is nothing to count.
                    if attack is None or processes > 1 or not getattr(error, "of_model", False):
                        raise
                    reason = " ".join(f"{type(error).__name__}: {error}".split())
                    self.failed[name] = f"the model raised {reason} under {name}, which is therefore not measured"
                    logger.warning("%s", self.failed[name], exc_info=logger.isEnabledFor(logging.DEBUG))
                    continue
                if attack is None:
                    standing = correct
                outcomes[row, self.batches[place]] = torch.where(correct, _RIGHT, _WRONG).to(torch.int8)
                seconds[row] += took
                done += len(correct)
                if self.advance is not None:
                    self.advance(Advance(name, len(correct), int(correct.sum()), done, total))
        if processes == 1:
            return outcomes, seconds
        # No image is measured twice, so the sum over the processes is what one of them found.
        outcomes, seconds = (
            (mean_over_processes(part.float().to(self.device)) * processes).cpu() for part in (outcomes, seconds)
        )
        return outcomes.round(), seconds

    def _outcome(self, place: int, name: str, attack: Attack | None, standing: Tensor) -> tuple[Tensor, float]:
        """Which images of a batch stay right, (B,) bool on the CPU, and the seconds it took to find out."""
        batch = self.batches[place]
        key = json.dumps([name, _parameters(attack), len(self.batches[0]), place, len(batch)], sort_keys=True)
        known = None if self.saved is None else self.saved.get(key)
        if known is not None:
            return torch.tensor([outcome == "1" for outcome in known[0]]), known[1]
        started = time.perf_counter()
        correct = standing.clone()
        if bool(standing.any()):
            rows = batch[standing]
            correct[standing] = self.network.retrying(lambda: self._attack(place, attack, rows), len(rows))
        took = time.perf_counter() - started
        if self.saved is not None:
            self.saved.put(key, "".join("1" if right else "0" for right in correct.tolist()), took)
        return correct, took

    def _attack(self, place: int, attack: Attack | None, rows: Tensor) -> Tensor:
        x, y = self.data.images[rows].to(self.device).float() / 255, self.data.labels[rows].to(self.device)
        if attack is None:
            return _NOTHING.judged(self.network, x, y).correct.cpu()
        seed = random.Random(f"{attack.seed}, {place}").getrandbits(63)
        # An attack through batch statistics needs the layers that have them.
        with self.folded.in_place() if attack.bn == "eval" else nullcontext():
            x_adv = attack.perturb(self.network, x, y, generator=torch.Generator(self.device).manual_seed(seed))
        return _NOTHING.judged(self.network, x_adv, y).correct.cpu()


class _Nothing(Attack):
    """Images as they are, judged as all others."""

    def run(self, problem: Problem) -> Tensor:
        return problem.x


_NOTHING = _Nothing(ThreatModel(1.0))


@contextmanager
def _in_place(model: Any, device: torch.device | str | None) -> Iterator[tuple[InPieces, torch.device]]:
    """The model ready to be measured, and where; it is back where it was at the end, also on errors."""
    network = as_module(model)
    first = next(itertools.chain(network.parameters(), network.buffers()), None)
    before = torch.device("cpu") if first is None else first.device
    try:
        where = before if device is None else torch.device(device)
    except RuntimeError as error:
        raise UserError(f"device={device!r} is unknown; write 'cpu', 'cuda' or 'cuda:1'") from error
    try:
        yield InPieces(network.to(where) if where != before else network), where
    finally:
        if where != before:
            network.to(before)


def _check_attacks(attacks: Any) -> None:
    example = "write {'pgd10': protoat.attacks.PGD(protoat.Linf(8/255), steps=10)}"
    if not isinstance(attacks, Mapping):
        raise TypeError(f"attacks is a {type(attacks).__name__}, expected attacks by name; {example}")
    if not attacks:
        raise UserError("there is no attack to measure; pass {'clean': None} for clean accuracy")
    for name, attack in attacks.items():
        check_kind(str, "each attack has a name", name=name)
        if not isinstance(attack, Attack | None):
            raise TypeError(f"attack {name!r} is {attack!r}, expected an attack, or None for clean images; {example}")
        check_batch_norm(attack, name)


def _possible(
    attacks: Mapping[str, Attack | None], data: ImageData, found: Examination
) -> tuple[dict[str, Attack | None], list[Finding]]:
    """The attacks that can be run on a model, and what is to be said of the others.

    Raises:
        ValueError: one cannot be run on such images or so many classes.
    """
    blocked = [] if found.differentiable else [n for n, a in attacks.items() if a is not None and a.follows_gradients]
    possible = {name: attack for name, attack in attacks.items() if name not in blocked}
    for name, attack in possible.items():
        if isinstance(attack, AutoAttack):
            attack.num_classes = data.num_classes  # says which parts it has, also where all outcomes are saved
        if attack is not None:
            try:
                attack.check((len(data), *data.shape), found.output)
            except ValueError as error:
                raise UserError(f"attack {name!r}: {error}") from error
    if not blocked:
        return possible, []
    text = f"{', '.join(blocked)} follow gradients, of which the model passes none to its images: not applicable"
    return possible, [Finding("not-applicable", "error", text)]


def check_batch_norm(attack: Attack | None, name: str) -> None:
    """Refuses an attack that would move the running statistics of the model it measures, or of its surrogate.

    Raises:
        ValueError: its batch norm is in mode ``"train"``.
    """
    if attack is not None and attack.bn == "train":
        raise UserError(
            f"attack {name!r} has batch norm in mode 'train', which moves the running statistics of the model and so "
            "changes every number after it; write bn='train_frozen'"
        )


def look_at(network: InPieces, data: ImageData, rows: Tensor, device: torch.device) -> Examination:
    """Examines a model before its measurement, see `examine`.

    Raises:
        ValueError: it cannot take the images, returns no logits of the data's classes, or none of them is finite.
    """
    x = data.images[rows].to(device).float() / 255
    try:
        hidden = hidden_parts_in_eval(hidden_modules(network))
        with attacking(network), hidden, torch.no_grad(), random_state_kept(device):
            logits = network(x[:1]).logits
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"the model cannot take an image of shape {tuple(x[:1].shape)}: {reason}") from error
    check_logits(logits, 1, data.num_classes)
    said = bool((predicted(logits) >= 0).all())
    try:
        found = network.retrying(lambda: examine(network, x, num_classes=data.num_classes), len(x))
        said = said or bool((predicted(found.output.logits) >= 0).any())
    except ValueError:
        if said:
            raise
    if not said:
        raise UserError("the model's logits are not finite (NaN or infinite), so no class is its prediction")
    return found


def _parameters(attack: Attack | None) -> dict[str, Any]:
    return {"attack": None} if attack is None else attack.parameters()
