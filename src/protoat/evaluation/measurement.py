"""Measures all batches under all attacks; it can be interrupted, resumed and shared by processes."""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from protoat.attacks import Attack
from protoat.attacks.precision import Passes, present_precision
from protoat.attacks.problem import Problem
from protoat.data import ImageData
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

    def get(self, key: str) -> tuple[str, float, Sequence[str]] | None:
        """Outcomes, seconds and alarms that were put under this key, or None."""

    def put(self, key: str, outcomes: str, seconds: float, alarms: Sequence[str]) -> None:
        """Keeps the outcomes of a batch, ``1`` for each image that stays right, the seconds it took, and alarms."""


class Outcome(NamedTuple):
    """Of one batch: which images stay right, (B,) bool on the CPU, the seconds it took, and `Attack.alarms`."""

    correct: Tensor
    seconds: float
    alarms: Sequence[str] = ()


@dataclass
class Measurement:
    """All batches under all attacks, and what is known about them.

    Attributes:
        failed: why an attack could not be measured, by name.
        alarms: for which an attack of two stages went on to the second, by name; see `Attack.stages`.
        outcomes, seconds: of this process, see `run`.
        processes: that share the batches.
    """

    network: MicroBatched
    folded: FoldedBatchNorm
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
    processes: int = field(init=False)

    def run(self, accelerator: Accelerator | None, budget_seconds: float | None) -> tuple[Tensor, Tensor]:
        """Outcomes (attacks, N), as numbers above, and seconds (attacks,), of all processes together."""
        started = time.perf_counter()
        self.outcomes = torch.zeros(len(self.attacks), len(self.data), dtype=torch.int8)
        self.seconds = torch.zeros(len(self.attacks), dtype=torch.float64)
        rank, self.processes = (0, 1) if accelerator is None else (accelerator.process_index, accelerator.num_processes)
        own = range(rank, len(self.batches), self.processes)

        def late(place: int) -> bool:
            return place != rank and budget_seconds is not None and time.perf_counter() - started > budget_seconds

        raised = self._begin(own, late)
        for row, (name, attack) in enumerate(self.attacks.items()):
            whole = None if attack is None else attack.stages[1]
            if whole is not None and name not in self.failed:
                alarms = raised[row] if self.processes == 1 else {*gather_object([*raised[row]])}
                self.alarms[name] = sorted(alarms)
                if alarms:
                    self._go_on(row, whole, own, late)
        if self.processes == 1:
            return self.outcomes, self.seconds
        # No image is measured twice, so the sum over the processes is what one of them found.
        outcomes, seconds = (
            (mean_over_processes(part.float().to(self.device)) * self.processes).cpu()
            for part in (self.outcomes, self.seconds)
        )
        return outcomes.round(), seconds

    def _begin(self, own: Sequence[int], late: Callable[[int], bool]) -> list[set[str]]:
        """The first stage, or only one, of all attacks on the batches of this process; the alarms of each attack."""
        total, done = len(self.attacks) * sum(len(self.batches[place]) for place in own), 0
        raised: list[set[str]] = [set() for _ in self.attacks]
        # Clean images first: what is wrong already is not attacked.
        rows = sorted(enumerate(self.attacks.items()), key=lambda item: item[1][1] is not None)
        for place in own:
            if late(place):
                break
            active = torch.ones(len(self.batches[place]), dtype=torch.bool)
            for row, (name, attack) in rows:
                found = self._measure(place, row, None if attack is None else attack.stages[0], active)
                if found is None:
                    continue
                if attack is None:
                    active = found.correct
                raised[row].update(found.alarms)
                done += len(found.correct)
                if self.advance is not None:
                    self.advance(Advance(name, len(found.correct), int(found.correct.sum()), done, total))
        return raised

    def _go_on(self, row: int, whole: Attack, own: Sequence[int], late: Callable[[int], bool]) -> None:
        """The second stage of an attack on all that stands."""
        name = [*self.attacks][row]
        logger.info("%s goes on to %s: %s", name, type(whole).__name__, "; ".join(self.alarms[name]))
        for place in own:
            batch = self.batches[place]
            if late(place):
                self.outcomes[row, batch] = 0  # the first stage alone would flatter
            elif bool((self.outcomes[row, batch] > 0).all()):
                self._measure(place, row, whole, self.outcomes[row, batch] == RIGHT)

    def _measure(self, place: int, row: int, attack: Attack | None, active: Tensor) -> Outcome | None:
        """Measures a batch under an attack and takes it down, or what error of the model prevented it."""
        name = [*self.attacks][row]
        if name in self.failed:
            return None
        try:
            found = self._outcome(place, name, attack, active)
        except Exception as error:
            # Other processes would wait for this one; without clean images there is nothing to count.
            if attack is None or self.processes > 1 or not getattr(error, "of_model", False):
                raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            self.failed[name] = f"the model raised {reason} under {name}, which is therefore not measured"
            logger.warning("%s", self.failed[name], exc_info=logger.isEnabledFor(logging.DEBUG))
            return None
        self.outcomes[row, self.batches[place]] = torch.where(found.correct, RIGHT, WRONG).to(torch.int8)
        self.seconds[row] += found.seconds
        return found

    def _outcome(self, place: int, name: str, attack: Attack | None, active: Tensor) -> Outcome:
        """A batch under an attack on its active images, (B,) bool; all others stay wrong."""
        batch = self.batches[place]
        key = json.dumps([name, parameters_of(attack), len(self.batches[0]), place, len(batch)], sort_keys=True)
        known = None if self.saved is None else self.saved.get(key)
        if known is not None:
            return Outcome(torch.tensor([outcome == "1" for outcome in known[0]]), *known[1:])
        started = time.perf_counter()
        correct = active.clone()
        if bool(active.any()):
            rows = batch[active]
            correct[active] = self.network.retrying(lambda: self._attack(place, attack, rows), len(rows))
        took = time.perf_counter() - started
        alarms = () if attack is None or not bool(active.any()) else attack.alarms
        if self.saved is not None:
            self.saved.put(key, "".join("1" if right else "0" for right in correct.tolist()), took, alarms)
        return Outcome(correct, took, alarms)

    def _attack(self, place: int, attack: Attack | None, rows: Tensor) -> Tensor:
        x, y = self.data.pixels(rows, self.device), self.data.labels[rows].to(self.device)
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


def parameters_of(attack: Attack | None) -> dict[str, Any]:
    """Everything that defines an attack, as JSON values, with the precision of its passes where that is not float32."""
    if attack is None:
        return {"attack": None}
    coarse = Passes(attack.gradient_steps).coarse or (attack.coarse_runs and present_precision() == "bf16")
    return attack.parameters() | ({"precision": "bf16"} if coarse else {})
