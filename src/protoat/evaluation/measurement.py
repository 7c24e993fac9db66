"""All batches under all attacks, which can be interrupted, repeated and shared out."""

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
from torch import Tensor

from protoat.attacks import Attack
from protoat.attacks.base import Problem
from protoat.attacks.precision import Passes
from protoat.data import ImageData
from protoat.evaluation.folding import FoldedBatchNorm
from protoat.evaluation.micro_batches import MicroBatched
from protoat.functional.distributed import mean_over_processes
from protoat.threats import ThreatModel

__all__ = ["RIGHT", "WRONG", "Advance", "Measurement", "Saved", "parameters_of"]

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

    def get(self, key: str) -> tuple[str, float] | None:
        """Outcomes and seconds that were put under this key, or None."""

    def put(self, key: str, outcomes: str, seconds: float) -> None:
        """Keeps the outcomes of a batch, ``1`` for each image that stays right, and the seconds it took."""


@dataclass
class Measurement:
    """All batches under all attacks, and what is known about them."""

    network: MicroBatched
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
            active = torch.ones(len(self.batches[place]), dtype=torch.bool)
            for row, (name, attack) in rows:
                if name in self.failed:
                    continue
                try:
                    correct, took = self._outcome(place, name, attack, active)
                except Exception as error:
                    # Other processes would wait for this one; without clean images there is nothing to count.
                    if attack is None or processes > 1 or not getattr(error, "of_model", False):
                        raise
                    reason = " ".join(f"{type(error).__name__}: {error}".split())
                    self.failed[name] = f"the model raised {reason} under {name}, which is therefore not measured"
                    logger.warning("%s", self.failed[name], exc_info=logger.isEnabledFor(logging.DEBUG))
                    continue
                if attack is None:
                    active = correct
                outcomes[row, self.batches[place]] = torch.where(correct, RIGHT, WRONG).to(torch.int8)
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

    def _outcome(self, place: int, name: str, attack: Attack | None, active: Tensor) -> tuple[Tensor, float]:
        """Which images of a batch stay right, (B,) bool on the CPU, and the seconds it took to find out."""
        batch = self.batches[place]
        key = json.dumps([name, parameters_of(attack), len(self.batches[0]), place, len(batch)], sort_keys=True)
        known = None if self.saved is None else self.saved.get(key)
        if known is not None:
            return torch.tensor([outcome == "1" for outcome in known[0]]), known[1]
        started = time.perf_counter()
        correct = active.clone()
        if bool(active.any()):
            rows = batch[active]
            correct[active] = self.network.retrying(lambda: self._attack(place, attack, rows), len(rows))
        took = time.perf_counter() - started
        if self.saved is not None:
            self.saved.put(key, "".join("1" if right else "0" for right in correct.tolist()), took)
        return correct, took

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
    return attack.parameters() | ({"precision": "bf16"} if Passes(attack.gradient_steps).coarse else {})
