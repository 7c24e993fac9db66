"""Targets come from the wrong classes, and with two classes all rules are one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch

from protoat.attacks import PGD, DeepFool, Targeted, draw_targets
from protoat.attacks.targets import TargetRule, ranked_wrong_classes
from protoat.threats import L2, Linf

RULES = ["least_likely", "next", "random"]


def test_ranking_leaves_the_label_out_wherever_it_ranks() -> None:
    logits = torch.tensor([[1.0, 5.0, 3.0], [1.0, 5.0, 3.0]])
    assert ranked_wrong_classes(logits, torch.tensor([1, 2])).tolist() == [[2, 0], [1, 0]]


def test_ranking_survives_equal_logits() -> None:
    assert ranked_wrong_classes(torch.zeros(3, 4), torch.tensor([0, 3, 2])).sort(1).values.tolist() == [
        [1, 2, 3],
        [0, 1, 2],
        [0, 1, 3],
    ]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_no_target_is_the_label(rule: Any, classes: int) -> None:
    logits, y = torch.randn(500, classes), torch.randint(classes, (500,))
    targets = draw_targets(rule, logits, y)
    assert not bool((targets == y).any())
    assert int(targets.min()) >= 0
    assert int(targets.max()) < classes


def test_rules_choose_what_they_say() -> None:
    logits = torch.tensor([[0.0, 3.0, -1.0], [0.0, 3.0, -1.0]])
    assert draw_targets("least_likely", logits, torch.tensor([0, 2])).tolist() == [2, 0]
    assert draw_targets("next", logits, torch.tensor([0, 2])).tolist() == [1, 0]


def test_random_targets_are_uniform_over_the_wrong_classes() -> None:
    y = torch.full((30_000,), 2)
    counts = draw_targets("random", torch.zeros(30_000, 4), y, torch.Generator().manual_seed(0)).bincount(minlength=4)
    assert counts[2] == 0
    assert bool((counts[[0, 1, 3]] - 10_000).abs().lt(400).all())  # 4 standard deviations are 327


def test_with_two_classes_targeted_and_untargeted_pgd_are_one_attack(digits: Callable[..., Any]) -> None:
    model, x, y = digits(classes=2)
    attack = PGD(Linf(0.2), steps=10)
    free = attack.perturb(model, x, y)
    assert not torch.equal(free, x)
    assert torch.equal(free, attack.perturb(model, x, y, targets=1 - y))
    for rule in get_args(TargetRule):
        assert torch.equal(Targeted(attack, rule)(model, x, y).correct, attack(model, x, y).correct)


def test_all_targets_leave_the_least_accuracy(digits: Callable[..., Any]) -> None:
    model, x, y = digits(count=60)
    attack = PGD(Linf(0.12), steps=10)
    correct = {rule: Targeted(attack, rule)(model, x, y).correct.sum() for rule in get_args(TargetRule)}
    assert correct["all"] < min(correct[rule] for rule in RULES)
    # The likeliest wrong class is among them, so all targets together come close to the untargeted attack.
    assert abs(int(correct["all"] - attack(model, x, y).correct.sum())) <= 3


def test_budget_and_seed(digits: Callable[..., Any]) -> None:
    model, x, y = digits(count=8)
    attack = Targeted(PGD(Linf(0.1), steps=3), "random")
    first = attack.perturb(model, x, y)
    assert torch.equal(first, attack.perturb(model, x, y))
    assert float((first - x).abs().max()) <= 0.1 + 1e-6


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="rule='hardest' is unknown; write 'least_likely', 'next', 'random' or 'all'"):
        Targeted(PGD(Linf(0.1)), "hardest")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="DeepFool has no targeted form"):
        Targeted(DeepFool(L2(1)), "next")
    with pytest.raises(ValueError, match="Targeted has no targeted form"):
        attack = Targeted(PGD(Linf(0.1)), "next")
        attack(torch.nn.Flatten(), torch.rand(1, 2), torch.tensor([0]), targets=torch.tensor([1]))


def test_the_record_holds_rule_and_attack() -> None:
    record = Targeted(PGD(Linf(0.1), steps=7), "next").parameters()
    assert (record["rule"], record["of"]["steps"]) == ("next", 7)
