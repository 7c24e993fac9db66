"""A model may touch, keep and reuse the tensors it is given: results are those of a twin that does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import protoat.attacks
import protoat.methods
from protoat.attacks import PGD, Attack, Square, Transfer
from protoat.data import Digits, ImageData, Origin
from protoat.evaluation import evaluate
from protoat.evaluation.threat_lint import lint
from protoat.methods import BiaMAT, FreeAT, Method
from protoat.models import MeanLogits
from protoat.objective import Objective
from protoat.threats import Linf
from protoat.types import Output

from . import parts
from .test_attack_contract import LINF, build

ATTACKS = parts.concrete(Attack, protoat.attacks)


class Touching(nn.Module):
    """A network behind a shift of its pixels, made in a way of its own; the twin has `None`."""

    def __init__(self, network: nn.Module, touch: Callable[[Tensor], Tensor] | None) -> None:
        super().__init__()
        self.network = network
        self.touch = touch
        self.kept: list[Tensor] = []
        self.written: Tensor | None = None

    def forward(self, x: Tensor) -> Any:
        if self.touch is None:
            return self.network(x - 0.25)
        output = self.network(self.touch(x))
        if not self.training:  # where two forwards may precede a backward, this would spoil what the first one saved
            self.kept.append(x)
            for earlier in self.kept[:-1]:
                earlier.data.fill_(0.125)
        return output


def arithmetic(x: Tensor) -> Tensor:
    return x.sub_(0.25)


def past_autograd(x: Tensor) -> Tensor:
    x.data.sub_(0.25)
    return x


def spoils_afterwards(x: Tensor) -> Tensor:
    moved = x - 0.25
    x.data.fill_(7.0)
    return moved


def cuts(x: Tensor) -> Tensor:
    return x.clamp_(0.3, 0.9).sub_(0.25)


TOUCHES = {"arithmetic": arithmetic, "past autograd": past_autograd, "spoils afterwards": spoils_afterwards}


class Rewriting(nn.Module):
    """Writes its logits into the same memory at each forward."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.memory = torch.zeros(0)

    def forward(self, x: Tensor) -> Output:
        logits, embedding = self.network(x)
        if logits.requires_grad:
            return Output(logits, embedding)
        if len(self.memory) < len(logits):
            self.memory = logits.new_empty(len(logits), logits.shape[1])
        return Output(self.memory[: len(logits)].copy_(logits), embedding)


@pytest.mark.parametrize("touch", TOUCHES.values(), ids=TOUCHES.keys())
@pytest.mark.parametrize("kind", ATTACKS, ids=lambda kind: kind.__name__)
def test_every_attack_is_the_same(kind: type[Attack], touch: Callable[[Tensor], Tensor]) -> None:
    network, x, y = parts.trained()
    twin, touching = Touching(network, None).eval(), Touching(network, touch).eval()
    images = x.clone()
    results = []
    for model in (twin, touching):
        attack = Transfer(PGD(LINF, steps=3), model, name="itself") if kind is Transfer else build(kind)
        results.append(attack(model, x, y))
    expected, found = results
    assert torch.equal(x, images)
    assert torch.equal(found.x_adv, expected.x_adv)
    assert torch.equal(found.correct, expected.correct)
    assert float(found.x_adv.min()) >= 0 and float(found.x_adv.max()) <= 1
    assert float((found.x_adv - x).abs().max()) <= LINF.eps + 1e-6


@pytest.mark.parametrize("kind", ATTACKS, ids=lambda kind: kind.__name__)
def test_every_attack_is_the_same_with_logits_in_one_memory(kind: type[Attack]) -> None:
    network, x, y = parts.trained()
    network.eval()
    expected, found = (build(kind)(model, x, y) for model in (network, Rewriting(network).eval()))
    assert torch.equal(found.x_adv, expected.x_adv)


def test_images_that_come_back_as_logits() -> None:
    x, y = torch.rand(8, 1, 1, 4), torch.arange(8) % 4
    result = PGD(Linf(0.1), steps=3)(nn.Flatten(), x, y)
    scaled = PGD(Linf(0.1), steps=3)(lambda_module(lambda images: images.flatten(1) * 1.0), x, y)
    assert torch.equal(result.x_adv, scaled.x_adv)


def lambda_module(function: Callable[[Tensor], Tensor]) -> nn.Module:
    class Of(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    return Of()


@pytest.mark.parametrize("touch", [arithmetic, cuts, spoils_afterwards])
def test_evaluation_and_lint_are_the_same(touch: Callable[[Tensor], Tensor]) -> None:
    data = Digits().load("test")
    network = parts.trained(classes=10)[0]
    plain = Touching(network, None if touch is not cuts else lambda x: x.clamp(0.3, 0.9) - 0.25).eval()
    touching = Touching(network, touch).eval()
    attacks = {"pgd3": PGD(LINF, steps=3), "square": Square(LINF, queries=30)}
    first, second = (evaluate(model, data, attacks, limit=60, batch_size=32) for model in (plain, touching))
    for name in ("clean", *attacks):
        assert torch.equal(first[name].correct_mask, second[name].correct_mask)
    assert lint(plain, data, LINF, attacks) == lint(touching, data, LINF, attacks)


METHODS = [kind for kind in parts.concrete(Method, protoat.methods) if kind.__name__ not in ("AdversarialTraining",)]


@pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.__name__)
def test_every_method_trains_the_same(kind: type[Method]) -> None:
    _, x, y = parts.trained()
    others = {"auxiliary": ImageData((255 * (1 - x)).byte(), y, tuple("abcd")), "warmup_epochs": 0}
    options = {FreeAT: {"replays": 2}, BiaMAT: others}.get(kind, {})
    ends = []
    for touch in (None, arithmetic):
        torch.manual_seed(0)
        model = Touching(parts.trained()[0], touch).train()
        objective = Objective(kind(LINF, **options))
        objective.method.prepare(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for terms in objective.losses(model, x, y, Origin(torch.arange(len(x)))):
            optimizer.zero_grad()
            terms.total.backward()
            optimizer.step()
        ends.append([value.clone() for value in model.state_dict().values()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_the_mean_of_a_touching_model() -> None:
    network, x, _ = parts.trained()
    plain, touching = (MeanLogits(Touching(network, touch).eval(), 3) for touch in (None, arithmetic))
    assert torch.equal(plain(x).logits, touching(x).logits)
