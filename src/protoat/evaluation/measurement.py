"""Measures all batches under all attacks; it can be interrupted, resumed and shared by processes."""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, NamedTuple, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from protoat.attacks import Attack
from protoat.attacks.precision import Passes, present_precision
from protoat.attacks.problem import Problem
from protoat.data import ImageData
from protoat.evaluation.compiled import CompiledNetwork, is_compiled
from protoat.evaluation.folding import FoldedBatchNorm
from protoat.evaluation.micro_batches import MicroBatched
from protoat.functional.distributed import mean_over_processes
from protoat.threats import ThreatModel

logger = logging.getLogger(__name__)

WRONG, RIGHT = 1, 2  # 0: not measured


class Advance(NamedTuple):
    """How far a measurement is after a batch.

    Attributes:
        attack: what the batch was measured under.
        images, correct: to be added to the images seen under it and to those that stay right. An attack in parts adds
            all images first, and with each part takes off those that fall.
        done, total: images measured so far by this process and to be measured, each counted for every attack, and for
            every part of one.
    """

    attack: str
    images: int
    correct: int
    done: int
    total: int


class Saved(Protocol):
    """Where the outcome of each batch is kept until a measurement is complete."""

    def get(self, key: str) -> tuple[str, float, Sequence[str]] | None:
        """Outcomes, seconds and alarms that were put under this key, or None."""

    def put(self, key: str, outcomes: str, seconds: float, alarms: Sequence[str]) -> None:
        """Keeps the outcomes of a batch, ``1`` for each image that stays right, the seconds it took, and alarms."""


class Outcome(NamedTuple):
    """Of some images: which stay right, (B,) bool on the CPU, the seconds it took, and `Attack.alarms`."""

    correct: Tensor
    seconds: float
    alarms: Sequence[str] = ()


@dataclass
class Measurement:
    """All batches under all attacks, and what is known about them.

    Attributes:
        stand_in: what the network is while it is attacked.
        failed: why an attack could not be measured, by name.
        alarms: for which an attack of two stages went on to the second, by name; see `Attack.stages`.
        outcomes, seconds: of this process, see `run`.
        processes: of this measurement.
        rank, sharers: this process, of those that share a group of batches.
        done, total: see `Advance`.
    """

    network: MicroBatched
    stand_in: FoldedBatchNorm | CompiledNetwork
    data: ImageData
    attacks: Mapping[str, Attack | None]
    batches: Sequence[Tensor]
    device: torch.device
    saved: Saved | None
    advance: Callable[[Advance], None] | None
    failed: dict[str, str] = field(default_factory=dict)
    alarms: dict[str, Sequence[str]] = field(default_factory=dict)
    outcomes: Tensor = field(init=False)
    seconds: Tensor = field(init=False)
    processes: int = 1
    rank: int = 0
    sharers: int = 1
    done: int = 0
    total: int = 0

    def run(self, accelerator: Accelerator | None, budget_seconds: float | None) -> tuple[Tensor, Tensor]:
        """Outcomes (attacks, N), as numbers above, and seconds (attacks,), of all processes together.

        Images still robust queue for the parts of an attack (`Attack.queue`) and for its second stage: those of the
        whole data, whose batches all processes share; or of one batch at a time, after which a budget may end it.
        """
        started = time.perf_counter()
        self.outcomes = torch.zeros(len(self.attacks), len(self.data), dtype=torch.int8)
        self.seconds = torch.zeros(len(self.attacks), dtype=torch.float64)
        rank, self.processes = (0, 1) if accelerator is None else (accelerator.process_index, accelerator.num_processes)
        places = range(len(self.batches))
        groups: list[Sequence[int]] = [places]
        if budget_seconds is None:
            self.rank, self.sharers = rank, self.processes
        else:
            groups = [[place] for place in places[rank :: self.processes]]

        def late(group: Sequence[int]) -> bool:
            passed = time.perf_counter() - started
            return budget_seconds is not None and group is not groups[0] and passed > budget_seconds

        self.total = sum(map(self._images, groups)) * sum(map(_parts, self.attacks.values()))
        raised: list[set[str]] = [set() for _ in self.attacks]
        for group in groups:
            if late(group):
                break
            self._begin(group, raised)
        for row, (name, attack) in enumerate(self.attacks.items()):
            whole = None if attack is None else attack.stages[1]
            if whole is None or name in self.failed:
                continue
            self.alarms[name] = sorted(raised[row] if self.processes == 1 else {*gather_object([*raised[row]])})
            if not self.alarms[name]:
                continue
            logger.info("%s goes on to %s: %s", name, type(whole).__name__, "; ".join(self.alarms[name]))
            self.total += sum(map(self._images, groups)) * _parts(whole)
            for group in groups:
                if late(group):
                    self.outcomes[row, self._rows(group)] = 0  # the first stage alone would flatter
                else:
                    self._queue(row, whole, group)
        # No image is measured twice, so the sum over the processes is what one of them found.
        return self._sum(self.outcomes, self.processes).round(), self._sum(self.seconds, self.processes)

    def _begin(self, group: Sequence[int], raised: list[set[str]]) -> None:
        """The first stage, or only one, of all attacks on some batches; adds the alarms of each attack."""
        # Clean images first: what is wrong already is not attacked.
        attacks = sorted(enumerate(self.attacks.items()), key=lambda item: item[1][1] is not None)
        for place in group[self.rank :: self.sharers]:
            batch = self.batches[place]
            active = torch.ones(len(batch), dtype=torch.bool)
            for row, (name, attack) in attacks:
                if attack is not None and attack.queue:
                    self._take_down(row, batch, active)
                    self._tell(name, len(batch), int(active.sum()), 0)
                    continue
                first = None if attack is None else attack.stages[0]
                seed = "" if first is None else f"{first.seed}, {place}"
                found = self._measure(row, first, seed, batch[active])
                if found is None:
                    continue
                correct = active.clone()
                correct[active] = found.correct
                self._take_down(row, batch, correct)
                if attack is None:
                    active = correct
                raised[row].update(found.alarms)
                self._tell(name, len(batch), int(correct.sum()), len(batch))
        for row, attack in enumerate(self.attacks.values()):
            if attack is not None and attack.queue:
                self._queue(row, attack, group)

    def _queue(self, row: int, attack: Attack, group: Sequence[int]) -> None:
        """The parts of an attack, in turn, on all images of some batches that are still robust, in full batches."""
        name, within = [*self.attacks][row], self._rows(group)
        outcomes = self._sum(self.outcomes[row], self.sharers).round()
        robust = within[outcomes[within] == RIGHT]
        size = min(len(self.batches[0]), getattr(attack, "batch_size", len(self.batches[0])))
        for number, part in enumerate(attack.queue or (attack,)):
            fell, left = torch.zeros(len(robust)), self._images(group)
            pieces = torch.arange(len(robust)).split(size) if len(robust) else ()
            for position in range(self.rank, len(pieces), self.sharers):
                piece, seed = pieces[position], f"{attack.seed}, {group[0]}, {number}, {position}"
                found = self._measure(row, part, seed, robust[piece])
                if found is None:
                    return
                fell[piece] = (~found.correct).float()
                told = min(len(piece), left)
                left -= told
                self._tell(name, 0, -int(fell[piece].sum()), told)
            self._tell(name, 0, 0, left)
            gone = self._sum(fell, self.sharers) > 0
            own = robust[gone & (self.outcomes[row, robust] == RIGHT)]
            self.outcomes[row, own] = WRONG
            robust = robust[~gone]

    def _rows(self, group: Sequence[int]) -> Tensor:
        return torch.cat([self.batches[place] for place in group])

    def _images(self, group: Sequence[int]) -> int:
        """In the batches of a group that are this process's."""
        return sum(len(self.batches[place]) for place in group[self.rank :: self.sharers])

    def _sum(self, values: Tensor, processes: int) -> Tensor:
        if processes == 1:
            return values
        return (mean_over_processes(values.float().to(self.device)) * processes).cpu()

    def _take_down(self, row: int, batch: Tensor, correct: Tensor) -> None:
        self.outcomes[row, batch] = torch.where(correct, RIGHT, WRONG).to(torch.int8)

    def _tell(self, name: str, images: int, correct: int, done: int) -> None:
        self.done += done
        if self.advance is not None:
            self.advance(Advance(name, images, correct, self.done, self.total))

    def _measure(self, row: int, attack: Attack | None, seed: str, rows: Tensor) -> Outcome | None:
        """Some images under an attack, or None where an error of the model prevented it, which is taken down."""
        name = [*self.attacks][row]
        if name in self.failed:
            return None
        try:
            found = self._outcome(name, attack, seed, rows)
        except Exception as error:
            # Other processes would wait for this one; without clean images there is nothing to count.
            if attack is None or self.processes > 1 or not getattr(error, "of_model", False):
                raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            self.failed[name] = f"the model raised {reason} under {name}, which is therefore not measured"
            logger.warning("%s", self.failed[name], exc_info=logger.isEnabledFor(logging.DEBUG))
            return None
        self.seconds[row] += found.seconds
        return found

    def _outcome(self, name: str, attack: Attack | None, seed: str, rows: Tensor) -> Outcome:
        """The images at `rows` under an attack that draws from `seed`."""
        digest = sha256(rows.numpy().tobytes()).hexdigest()
        parameters = parameters_of(attack, compiled=isinstance(self.stand_in, CompiledNetwork))
        key = json.dumps([name, parameters, seed, digest], sort_keys=True)
        known = None if self.saved is None else self.saved.get(key)
        if known is not None:
            return Outcome(torch.tensor([outcome == "1" for outcome in known[0]], dtype=torch.bool), *known[1:])
        started = time.perf_counter()
        correct = torch.ones(0, dtype=torch.bool)
        alarms: Sequence[str] = ()
        if len(rows):
            correct = self.network.retrying(lambda: self._attack(attack, seed, rows), len(rows))
            alarms = alarms if attack is None else attack.alarms
        took = time.perf_counter() - started
        if self.saved is not None:
            self.saved.put(key, "".join("1" if right else "0" for right in correct.tolist()), took, alarms)
        return Outcome(correct, took, alarms)

    def _attack(self, attack: Attack | None, seed: str, rows: Tensor) -> Tensor:
        x, y = self.data.pixels(rows, self.device), self.data.labels[rows].to(self.device)
        if attack is None:
            return _NOTHING.judged(self.network, x, y).correct.cpu()
        number = random.Random(seed).getrandbits(63)
        # An attack through batch statistics needs the layers that have them.
        with self.stand_in.in_place() if attack.bn == "eval" else nullcontext():
            x_adv = attack.perturb(self.network, x, y, generator=torch.Generator(self.device).manual_seed(number))
        return _NOTHING.judged(self.network, x_adv, y).correct.cpu()


class _Nothing(Attack):
    """Images as they are, judged as all others."""

    def run(self, problem: Problem) -> Tensor:
        return problem.x


_NOTHING = _Nothing(ThreatModel(1.0))


def _parts(attack: Attack | None) -> int:
    return 1 if attack is None else len(attack.queue) or 1


def parameters_of(attack: Attack | None, *, compiled: bool = False) -> dict[str, Any]:
    """Everything that defines an attack, as JSON values, and its passes where they are not float32, or are compiled."""
    if attack is None:
        return {"attack": None}
    coarse = Passes(attack.gradient_steps).coarse or (attack.coarse_runs and present_precision() == "bf16")
    passes = ({"precision": "bf16"} if coarse else {}) | (
        {"compiled": True} if compiled and is_compiled(attack) else {}
    )
    return attack.parameters() | passes
