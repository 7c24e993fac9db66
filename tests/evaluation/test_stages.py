"""Attacks of two stages: one alarm sends all robust images to the second, also after a kill."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
import torch
from torch import Tensor

from protoat.attacks import PGD, Attack
from protoat.attacks.problem import Problem
from protoat.evaluation import evaluate
from protoat.evaluation.report import AttackReport
from protoat.threats import Linf

from .small import Fuse, Halves, Killed, halves

THREAT = Linf(0.05)


class First(Attack):
    """Finds nothing, and raises an alarm on the batch of a number, which it knows by its seed."""

    def __init__(self, alarmed: int | None) -> None:
        super().__init__(THREAT)
        self.alarmed = alarmed
        self.batches: list[int] = []

    def run(self, problem: Problem) -> Tensor:
        seed = random.Random(f"0, {self.alarmed}").getrandbits(63)
        self.alarms = ("smoke",) if problem.generator.initial_seed() == seed else ()
        self.batches.append(len(problem.x))
        return problem.x

    def parameters(self) -> dict[str, Any]:
        return {"attack": "First"}


class Second(PGD):
    batches: list[int]

    def parameters(self) -> dict[str, Any]:
        return {"attack": "Second"}

    def run(self, problem: Problem) -> Tensor:
        self.batches.append(len(problem.x))
        return super().run(problem)


class Staged(Attack):
    def __init__(self, alarmed: int | None) -> None:
        super().__init__(THREAT)
        self.first, self.second = First(alarmed), Second(THREAT)
        self.second.batches = []

    @property
    def stages(self) -> tuple[Attack, Attack | None]:
        return self.first, self.second

    def run(self, problem: Problem) -> Tensor:
        raise AssertionError("a measurement runs the stages")

    def parameters(self) -> dict[str, Any]:
        return {"attack": "Staged", "norm": "linf", "eps": THREAT.eps}


def measured(attack: Staged, **options: Any) -> AttackReport:
    attacks = {"staged": attack, "pgd": PGD(THREAT)}
    return evaluate(Halves().eval(), halves(), attacks, threat=THREAT, batch_size=20, **options)["staged"]


def test_one_alarm_sends_every_batch_on_and_none_sends_no_batch() -> None:
    calm, alarmed = Staged(None), Staged(1)
    left = {attack: measured(attack) for attack in (calm, alarmed)}
    assert left[calm].alarms == [] and calm.second.batches == []
    assert left[alarmed].alarms == ["smoke"]
    assert sum(alarmed.first.batches) == sum(alarmed.second.batches) == 56
    assert len(alarmed.first.batches) == 3 and alarmed.second.batches == [20, 20, 16]
    whole = evaluate(Halves().eval(), halves(), {"staged, whole": PGD(THREAT)}, batch_size=20)["staged, whole"]
    assert torch.equal(left[alarmed].correct_mask, whole.correct_mask)
    assert left[alarmed].count.correct < left[calm].count.correct


def test_the_report_keeps_its_alarms_apart_from_its_parameters() -> None:
    for alarmed, told in ((None, []), (0, ["smoke"])):
        found = measured(Staged(alarmed))
        content = json.loads(json.dumps(found.to_json()))
        assert content["alarms"] == told and AttackReport.from_json(content).alarms == told
        assert "alarms" not in found.parameters
    plain = evaluate(Halves().eval(), halves(), {"pgd": PGD(THREAT)})["pgd"]
    assert plain.alarms is None and "alarms" not in plain.to_json()


@pytest.mark.parametrize("after", range(1, 12))
def test_it_goes_on_where_it_was_killed(after: int) -> None:
    saved, whole = Fuse(after), measured(Staged(1))
    with pytest.raises(Killed):
        measured(Staged(1), saved=saved)
    resumed = measured(again := Staged(1), saved=saved)
    assert resumed.to_json() | {"seconds": 0} == whole.to_json() | {"seconds": 0}
    assert len(saved) == 12 and len(again.first.batches) + len(again.second.batches) < 6 + (after == 1)


def test_when_time_is_up_no_first_stage_passes_for_both() -> None:
    found = measured(Staged(0), budget_seconds=1e-9)
    assert found.count.total == 20 and found.alarms == ["smoke"]
