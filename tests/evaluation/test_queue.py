"""Attacks in parts: each part gets full batches of what stands in the whole data, and nothing else changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from protoat.attacks import FGSM, PGD, Attack, AutoAttack, Square
from protoat.attacks.problem import Problem
from protoat.data import ImageData
from protoat.evaluation import evaluate
from protoat.evaluation.measurement import Advance
from protoat.evaluation.report import AttackReport
from protoat.threats import Linf, ThreatModel

from .small import Fuse, Halves, Kept, Killed, digits, halves

RADII = (2 / 255, 17 / 255, 25 / 255)


class Parts(Attack):
    """Several attacks one after the other, and the sizes of the batches that each was given."""

    def __init__(self, *parts: Attack) -> None:
        super().__init__(ThreatModel(1.0))
        self.parts, self.sizes = parts, [[] for _ in parts]
        for part, sizes in zip(parts, self.sizes, strict=True):
            part.run = _noting(part.run, sizes)  # type: ignore[method-assign]

    @property
    def queue(self) -> Sequence[Attack]:
        return self.parts

    def run(self, problem: Problem) -> Tensor:
        raise AssertionError("a measurement runs the parts")

    def parameters(self) -> dict[str, Any]:
        return {"attack": "Parts"}


def _noting(run: Any, sizes: list[int]) -> Any:
    def noted(problem: Problem) -> Tensor:
        sizes.append(len(problem.x))
        return run(problem)

    return noted


def growing() -> Parts:
    return Parts(*(FGSM(Linf(radius)) for radius in RADII))


def measured(attack: Attack, **options: Any) -> AttackReport:
    return evaluate(Halves().eval(), halves(), {"it": attack}, **{"batch_size": 20, **options})["it"]


@pytest.mark.parametrize("options", [{}, {"batch_size": 7}, {"batch_size": 100}, {"budget_seconds": 1e6}])
def test_the_outcome_is_the_worst_case_of_the_parts(options: dict[str, Any]) -> None:
    right = [measured(FGSM(Linf(radius))).correct_mask for radius in RADII]
    found = measured(growing(), **options).correct_mask
    assert torch.equal(found, right[0] & right[1] & right[2])
    assert 0 < int(found.sum()) < int(right[0].sum())


def test_every_part_gets_full_batches_of_the_robust_images_of_the_whole_data() -> None:
    attack = growing()
    robust = int(evaluate(Halves().eval(), halves(), "clean")["clean"].count.correct)
    measured(attack)
    for radius, sizes in zip(RADII, attack.sizes, strict=True):
        assert sum(sizes) == robust and len(sizes) == math.ceil(robust / 20) and set(sizes[:-1]) <= {20}
        robust = measured(FGSM(Linf(radius))).count.correct


def test_within_a_budget_each_batch_is_brought_to_its_end() -> None:
    attack = growing()
    found = measured(attack, budget_seconds=1e-9)
    assert found.count.total == 20 and [len(sizes) for sizes in attack.sizes] == [1, 1, 1]
    assert torch.equal(found.correct_mask, _of_the_first_twenty())


def _of_the_first_twenty() -> Tensor:
    report = evaluate(Halves().eval(), halves(), [FGSM(Linf(radius)) for radius in RADII], limit=20, batch_size=20)
    return report.worst_case.correct_mask


@pytest.mark.parametrize("after", range(1, 9))
def test_it_goes_on_where_it_was_killed(after: int) -> None:
    model, data = digits(4)
    whole = evaluate(model, data, {"it": random_parts()}, batch_size=20)["it"]
    saved, again = Fuse(after), random_parts()
    with pytest.raises(Killed):
        evaluate(model, data, {"it": random_parts()}, batch_size=20, saved=saved)
    before = dict(saved)
    found = evaluate(model, data, {"it": again}, batch_size=20, saved=saved)["it"]
    assert torch.equal(found.correct_mask, whole.correct_mask) and 0 < found.count.correct < len(data)
    assert before.items() <= saved.items()
    assert sum(map(len, again.sizes)) == len(saved) - max(after, 4)


def random_parts() -> Parts:
    return Parts(PGD(Linf(0.1), steps=2), Square(Linf(0.2), queries=20))


def test_another_number_of_images_takes_nothing_from_another_queue() -> None:
    model, data = digits(4)
    saved = Kept()
    evaluate(model, data, {"it": random_parts()}, batch_size=20, limit=40, saved=saved)
    more = evaluate(model, data, {"it": random_parts()}, batch_size=20, saved=saved)["it"]
    fresh = evaluate(model, data, {"it": random_parts()}, batch_size=20)["it"]
    assert torch.equal(more.correct_mask, fresh.correct_mask)


def test_progress_ends_at_the_total_and_counts_what_stands() -> None:
    told: list[Advance] = []
    found = measured(growing(), advance=told.append)
    own = [step for step in told if step.attack == "it"]
    assert told[-1].done == told[-1].total == 60 * (1 + 3)
    assert [step.done for step in told] == sorted(step.done for step in told)
    assert sum(step.images for step in own) == 60
    assert sum(step.correct for step in own) == found.count.correct


def test_a_part_in_which_the_model_fails_leaves_the_attack_out() -> None:
    class Failing(Halves):
        def forward(self, x: Tensor) -> Any:
            if bool((x * 255 % 1 > 0.01).any()) and not x.requires_grad:
                raise RuntimeError("no such pixels")
            return super().forward(x)

    report = evaluate(Failing().eval(), halves(), {"it": Parts(FGSM(Linf(0.001)), FGSM(Linf(0.1)))}, batch_size=20)
    assert list(report.attacks) == ["clean"]
    assert [finding.code for finding in report.findings if finding.code == "raised"] == ["raised"]


class Short(AutoAttack):
    """The same parts with fewer steps."""

    def parts(self, num_classes: int) -> dict[str, Attack]:
        parts = super().parts(num_classes)
        for name, part in parts.items():
            setattr(part, "queries" if name == "square" else "steps", 10)
        return parts


@pytest.mark.parametrize("classes", [2, 4])
def test_autoattack_leaves_as_many_robust_as_batch_by_batch(classes: int) -> None:
    model, data = digits(classes, 128)
    x, y, attack = data.pixels(), data.labels, Short(Linf(0.2))
    alone = sum(int(attack(model, *part).correct.sum()) for part in zip(x.split(32), y.split(32), strict=True))
    queued = evaluate(model, data, {"aa": attack}, batch_size=32)["aa"].count.correct
    assert abs(queued - alone) <= 3 and 0 < queued < len(data)


def test_what_the_model_gets_wrong_is_not_attacked() -> None:
    data, model, attack = halves(), Halves().eval(), growing()
    right = evaluate(model, data, "clean")["clean"].correct_mask
    wrong = ImageData(data.images, torch.where(right, 1 - data.labels, data.labels), data.class_names)
    assert evaluate(model, wrong, {"it": attack})["it"].count.correct == 0
    assert attack.sizes == [[], [], []]
