"""AutoAttack: its composition for every number of classes, its record, and AutoAttack itself as the judge."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from protoat.attacks import PGD, Attack, AutoAttack
from protoat.attacks.problem import Problem
from protoat.threats import L1, L2, Linf, ThreatModel


class Short(AutoAttack):
    """The same parts with fewer steps, and a note of how many images each of them was given."""

    steps, queries = 8, 30

    def parts(self, num_classes: int) -> dict[str, Attack]:
        self.given: dict[str, int] = getattr(self, "given", {})
        parts = super().parts(num_classes)
        for name, part in parts.items():
            setattr(part, "queries" if name == "square" else "steps", self.queries if name == "square" else self.steps)
            part.run = self._noted(name, part.run)  # type: ignore[method-assign]
        return parts

    def _noted(self, name: str, run: Callable[[Problem], Tensor]) -> Callable[[Problem], Tensor]:
        def noted(problem: Problem) -> Tensor:
            self.given[name] = self.given.get(name, 0) + len(problem.x)
            return run(problem)

        return noted


@pytest.mark.parametrize(
    ("classes", "version", "parts"),
    [
        (2, "aa-k2", {"apgd-ce": 5, "apgd-margin": 5, "fab": None, "square": None}),
        (3, "aa-k3", {"apgd-ce": 5, "apgd-dlr": 5, "fab-t": 2, "square": None}),
        (4, "aa-k4", {"apgd-ce": 5, "apgd-t": 3, "fab-t": 3, "square": None}),
        (9, "aa-k9", {"apgd-ce": 5, "apgd-t": 8, "fab-t": 8, "square": None}),
        (10, "standard", {"apgd-ce": 1, "apgd-t": 9, "fab-t": 9, "square": None}),
        (200, "standard", {"apgd-ce": 1, "apgd-t": 9, "fab-t": 9, "square": None}),
    ],
)
def test_composition(classes: int, version: str, parts: dict[str, int | None]) -> None:
    attack = AutoAttack(Linf("8/255"))
    assert attack.version(classes) == version
    built = attack.parts(classes)
    assert list(built) == list(parts)
    for name, number in parts.items():
        record = built[name].parameters()
        assert record.get("num_targets", record["restarts"]) == (number or 1)
        assert record.get("steps", 100) == 100
        assert record.get("queries", 5000) == 5000
        assert record["eps"] == 8 / 255


def test_under_l1_it_is_the_composition_of_its_authors() -> None:
    parts = AutoAttack(L1(12)).parts(10)
    assert list(parts) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    records = {name: part.parameters() for name, part in parts.items()}
    assert records["apgd-ce"]["restarts"] == 5
    assert (records["apgd-t"]["num_targets"], records["apgd-t"]["restarts"]) == (5, 1)
    assert records["fab-t"]["num_targets"] == 9
    assert {record["norm"] for record in records.values()} == {"l1"}


# Each number of classes that has a composition of its own, and each norm with targets, without, and as of its authors.
@pytest.mark.parametrize(
    ("threat", "classes"),
    [(Linf(0.13), 2), (Linf(0.13), 7), (L2(0.9), 3), (L2(0.9), 10), (L1(1.2), 2), (L1(1.2), 4), (L1(1.2), 10)],
)
def test_runs_to_the_end_on_robust_images_only(digits: Callable[..., Any], threat: ThreatModel, classes: int) -> None:
    model, x, y = digits(classes=classes, count=24)
    attack = Short(threat)
    result = attack(model, x, y)
    given = list(attack.given.values())
    assert len(given) == 4  # every part had something to do
    assert given[0] == int((model(x).logits.argmax(1) == y).sum())
    assert given == sorted(given, reverse=True)
    assert int(result.correct.sum()) <= given[-1]
    assert int(result.correct.sum()) <= int(PGD(threat)(model, x, y).correct.sum())


def test_parts_get_full_batches(digits: Callable[..., Any]) -> None:
    model, x, y = digits(count=64)
    sizes: list[int] = []
    handle = model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    small = Short(Linf(0.1), batch_size=16)(model, x, y)
    handle.remove()
    assert max(size for size in sizes if size < 64) == 16  # 64 is the final judgement
    whole = Short(Linf(0.1), batch_size=64)(model, x, y)
    assert abs(int(small.correct.sum() - whole.correct.sum())) <= 2


def test_the_record_holds_every_parameter_and_never_a_wrong_name(digits: Callable[..., Any]) -> None:
    attack = Short(Linf(0.2), seed=4)
    assert attack.parameters()["num_classes"] is None
    assert "version" not in attack.parameters()
    model, x, y = digits(classes=3, count=8)
    attack(model, x, y)
    record = json.loads(json.dumps(AutoAttack.parameters(attack)))
    assert (record["version"], record["num_classes"], record["seed"]) == ("aa-k3", 3, 4)
    assert record["parts"]["apgd-dlr"]["loss"] == "protoat.functional.margins.dlr"
    assert record["parts"]["fab-t"]["num_targets"] == 2
    assert record["parts"]["square"]["p_init"] == 0.8


def test_repeats_with_its_seed_and_leaves_the_model(digits: Callable[..., Any]) -> None:
    model, x, y = digits(count=12)
    first = Short(L2(0.6), seed=1).perturb(model, x, y)
    assert torch.equal(first, Short(L2(0.6), seed=1).perturb(model, x, y))
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_one_class_is_no_problem_to_attack() -> None:
    with pytest.raises(ValueError, match="one logit for each image; return one for each class"):
        AutoAttack(Linf(0.1))(nn.Sequential(nn.Flatten(), nn.Linear(4, 1)), torch.rand(1, 1, 2, 2), torch.tensor([0]))
    with pytest.raises(ValueError, match="batch_size=0"):
        AutoAttack(Linf(0.1), batch_size=0)


@pytest.mark.slow
@pytest.mark.parametrize(("threat", "norm"), [(Linf(0.1), "Linf"), (L2(0.5), "L2"), (L1(1.5), "L1")])
def test_pyautoattack_finds_the_same_accuracy(digits: Callable[..., Any], threat: ThreatModel, norm: str) -> None:
    theirs = pytest.importorskip("pyautoattack")
    model, x, y = digits(count=100)

    class Logits(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return model(x).logits

    other = theirs.AutoAttack(Logits().eval(), norm=norm, eps=threat.eps, seed=0, version="standard")
    x_adv, _ = other.run_standard_evaluation(x, y, batch_size=100)
    left = int((model(x_adv).logits.argmax(1) == y).sum())
    assert abs(int(AutoAttack(threat)(model, x, y).correct.sum()) - left) <= 1


@pytest.mark.slow
def test_two_classes_to_the_end_with_every_step(digits: Callable[..., Any]) -> None:
    model, x, y = digits(classes=2, count=16)
    attack = AutoAttack(Linf(0.17))
    assert int(attack(model, x, y).correct.sum()) <= int(PGD(Linf(0.17), steps=40)(model, x, y).correct.sum())
    assert attack.parameters()["version"] == "aa-k2"
