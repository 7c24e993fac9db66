"""Transfer: made there, judged here."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch

from protoat.attacks import PGD, DeepFool, Transfer
from protoat.threats import L2, Linf


def test_images_are_those_of_the_surrogate_and_success_is_the_victim_s(digits: Callable[..., Any]) -> None:
    surrogate, x, y = digits(count=32)
    victim = deepcopy(surrogate)
    torch.nn.init.normal_(victim.head.weight)
    attack = PGD(Linf(0.2), steps=5)
    result = Transfer(attack, surrogate, name="it")(victim, x, y)
    assert torch.equal(result.x_adv, attack.perturb(surrogate, x, y))
    assert torch.equal(result.correct, victim(result.x_adv).logits.argmax(1) == y)


def test_the_victim_s_gradients_are_not_used(digits: Callable[..., Any]) -> None:
    surrogate, x, y = digits(count=8)

    class Opaque(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert not torch.is_grad_enabled()
            return surrogate(x).logits

    transferred = Transfer(PGD(Linf(0.2), steps=5), surrogate, name="it")(Opaque(), x, y)
    assert torch.equal(transferred.correct, PGD(Linf(0.2), steps=5)(surrogate, x, y).correct)


def test_the_surrogate_is_left_as_found(digits: Callable[..., Any]) -> None:
    surrogate, x, y = deepcopy(digits(count=4))
    surrogate.train()
    Transfer(PGD(Linf(0.1), steps=2), surrogate, name="it")(surrogate, x, y)
    assert surrogate.training
    assert all(p.requires_grad and p.grad is None for p in surrogate.parameters())


def test_targets_are_passed_on_where_the_attack_takes_them(digits: Callable[..., Any]) -> None:
    model, x, y = digits(count=8)
    targets = (y + 1) % 10
    inner = PGD(Linf(0.2), steps=5)
    ours = Transfer(inner, model, name="it").perturb(model, x, y, targets=targets)
    assert torch.equal(ours, inner.perturb(model, x, y, targets=targets))
    with pytest.raises(ValueError, match="Transfer has no targeted form"):
        Transfer(DeepFool(L2(1)), model, name="it").perturb(model, x, y, targets=targets)
    assert Transfer.can_target


def test_the_record_names_the_surrogate(digits: Callable[..., Any]) -> None:
    record = Transfer(PGD(Linf(0.2), steps=5), digits()[0], name="runs/it").parameters()
    assert record["surrogate"] == "runs/it"
    assert record["of"]["steps"] == 5
