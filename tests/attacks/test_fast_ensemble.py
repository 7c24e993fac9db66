"""The fast ensemble: who is given to each part, what raises an alarm, and AutoAttack after it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from protoat.attacks import APGDT, PGD, Attack, AutoAttack, FastEnsemble
from protoat.attacks import fast_ensemble as module
from protoat.threats import L1, L2, Linf, ThreatModel


class Short(FastEnsemble):
    """The same parts with fewer steps, and a note of the images each was given."""

    def parts(self, num_classes: int) -> dict[str, Attack]:
        self.given: dict[str, list[int]] = defaultdict(list)
        parts = super().parts(num_classes)
        for name, part in parts.items():
            for key, value in (("steps", 6), ("queries", 300)):
                if hasattr(part, key):
                    setattr(part, key, value)
            method = "towards" if name == "malt" else "run"
            setattr(part, method, self._noted(name, getattr(part, method)))
        return parts

    def _noted(self, name: str, run: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def noted(problem: Any, *given: Any, **named: Any) -> Tensor:
            self.given[name].append(len(problem.x))
            return run(problem, *given, **named)

        return noted


@pytest.mark.parametrize(
    ("threat", "classes", "runs"),
    [(Linf(0.08), 2, 3), (L2(0.5), 3, 4), (L1(1.0), 5, 4), (Linf(0.08), 10, 6), (L2(0.5), 10, 6)],
)
def test_each_part_is_given_what_it_should(
    digits: Callable[..., Any], threat: ThreatModel, classes: int, runs: int
) -> None:
    model, x, y = digits(classes=classes, count=60)
    attack = Short(threat, escalate=False)
    result = attack(model, x, y)
    given, right = attack.given, int((model(x).logits.argmax(1) == y).sum())
    assert given["apgd-ce"] == [right]
    assert len(given["malt"]) == runs
    for before, after in zip(given["malt"], given["malt"][1:], strict=False):
        assert after <= max(1, round(0.7 * before))
    left = int(result.correct.sum())
    assert 0 < left <= given["pma"][0] <= right
    assert min(left, 10) <= given["square"][0] <= 10
    assert left <= int(PGD(threat)(model, x, y).correct.sum())


def test_square_is_given_a_tenth_spread_over_classes_and_closeness() -> None:
    y = torch.tensor([0, 1]).repeat(100)
    lead = -torch.rand(200, generator=torch.Generator().manual_seed(0))
    lead[::7] = torch.inf

    class State:
        active = (lead < torch.inf).nonzero().squeeze(1)

    State.lead = lead  # type: ignore[attr-defined]
    rows = module._tenth(y, State)  # type: ignore[arg-type]
    assert len(rows.unique()) == 18 and bool((lead[rows] < torch.inf).all())
    assert [int((y[rows] == label).sum()) for label in (0, 1)] == [9, 9]
    active = lead[State.active]
    assert bool((lead[rows] > active.median()).any() and (lead[rows] < active.median()).any())


def test_a_sound_model_raises_no_alarm_and_falls_as_under_apgd_t(digits: Callable[..., Any]) -> None:
    model, x, y = digits(count=24)
    fast = FastEnsemble(Linf(0.1))
    left = int(fast(model, x, y).correct.sum())
    assert fast.alarms == ()
    assert left <= int(APGDT(Linf(0.1), num_targets=3, steps=40)(model, x, y).correct.sum())


class Around(nn.Module):
    """A model whose input or logits something has been done to."""

    def __init__(self, model: nn.Module, before: Callable[[Tensor], Tensor], factor: float = 1.0) -> None:
        super().__init__()
        self.model, self.before, self.factor = model, before, factor

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(self.before(x)).logits
        return self.factor * logits


CHEATS: dict[str, tuple[Callable[[Tensor], Tensor], float, float, str]] = {
    "noise": (lambda x: x + 0.2 * torch.randn_like(x), 1.0, 0.12, "random"),
    "rounding": (lambda x: x + (((4 * x).round() / 4) - x).detach() - x + x.detach(), 1.0, 0.12, "gradients are zero"),
    "saturation": (lambda x: x, 1000.0, 0.12, "saturated"),
    "batch statistics": (lambda x: x - x.mean(0, keepdim=True), 1.0, 0.02, "batch"),
    # Gradients point the wrong way, as shattered ones do.
    "reversal": (lambda x: 2 * x.detach() - x, 1.0, 0.2, "square breaks what gradients leave"),
}


@pytest.mark.parametrize("name", CHEATS)
def test_each_cheat_raises_its_alarm_and_autoattack_follows(digits: Callable[..., Any], name: str) -> None:
    before, factor, eps, alarm = CHEATS[name]
    model, x, y = digits(count=40)
    fast = Short(Linf(eps))
    followed: list[int] = []

    class Whole(AutoAttack):
        def run(self, problem: Any) -> Tensor:
            followed.append(len(problem.x))
            return problem.x

    whole = Whole(fast.threat)
    stages = FastEnsemble.stages.fget  # type: ignore[attr-defined]
    type(fast).stages = property(lambda self: (stages(self)[0], whole))  # type: ignore[method-assign]
    try:
        fast.craft(Around(model, before, factor).eval(), x, y)
    finally:
        del type(fast).stages
    assert alarm in fast.alarms
    assert followed or "saturated" in fast.alarms  # then nothing stands


def test_the_record_says_what_it_is_made_of_and_not_what_it_found(digits: Callable[..., Any]) -> None:
    attack = FastEnsemble(L2(0.5), seed=3)
    assert "parts" not in attack.parameters()
    model, x, y = digits(classes=3, count=8)
    first, whole = attack.stages
    assert isinstance(first, FastEnsemble) and isinstance(whole, AutoAttack)
    assert (first.escalate, whole.threat, whole.seed, first.stages[1]) == (False, attack.threat, 3, None)
    attack(model, x, y)
    record = json.loads(json.dumps(attack.parameters()))
    assert record["attack"] == "FastEnsemble" and record["parts"]["malt"]["num_targets"] == 2
    attack.alarms = ("square",)
    assert json.loads(json.dumps(attack.parameters())) == record
