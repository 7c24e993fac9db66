"""Attacks that know the prototypes of a head: what each climbs, by slow loops, and what they add to other attacks."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protoat.attacks import APGD, APGDT, LeaveMode, adaptive_head_attacks
from protoat.attacks.targets import ranked_prototypes
from protoat.models import MultiPrototypeHead, multi_prototype_head, with_head
from protoat.threats import L2, Linf
from protoat.types import Output


def head_of(*counts: int, similarity: Any = "dot") -> MultiPrototypeHead:
    return MultiPrototypeHead(6, len(counts), prototypes_per_class=list(counts), similarity=similarity)


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_mode_posterior_by_a_slow_loop(similarity: Any) -> None:
    head, z, y = head_of(2, 1, 3, similarity=similarity), torch.randn(5, 6), torch.tensor([0, 1, 2, 2, 0])
    loss = LeaveMode(head)(Output(torch.zeros(5, 3), z), y)
    for row, label in enumerate(y.tolist()):
        scores = {(c, k): head.sub_logits(z)[row, c, k].item() for c in range(3) for k in range(3) if head.active[c, k]}
        own = max(score for (c, _), score in scores.items() if c == label)
        total = math.fsum(math.exp(score) for score in scores.values())
        assert loss[row].item() == pytest.approx(-math.log(math.exp(own) / total), abs=1e-5)


def test_wrong_prototypes_by_falling_score() -> None:
    sub, y = torch.randn(4, 3, 2), torch.tensor([0, 1, 2, 1])
    sub[:, 1, 1] = -torch.inf
    ranked = ranked_prototypes(sub, y)
    for row, label in enumerate(y.tolist()):
        wrong = [(sub[row, c, k].item(), c * 2 + k) for c in range(3) for k in range(2) if c != label]
        expected = [place for score, place in sorted(wrong, reverse=True) if score > -torch.inf]
        assert ranked[row].tolist() == (expected + expected[:1])[: ranked.shape[1]]
    only = ranked_prototypes(sub, y, (y + 1) % 3)
    assert torch.equal(only // 2, ((y + 1) % 3)[:, None].expand(-1, 2))


def test_training_on_does_not_move_the_attacks() -> None:
    head, output, y = head_of(2, 2), Output(torch.zeros(4, 2), torch.randn(4, 6)), torch.tensor([0, 1, 0, 1])
    loss, towards = LeaveMode(head), APGDT(Linf(0.1), head=head)
    before = loss(output, y)
    with torch.no_grad():
        head.prototypes.neg_()
    assert torch.equal(loss(output, y), before) and towards.head is not None
    assert not torch.equal(towards.head.prototypes, head.prototypes)
    assert not any(parameter.requires_grad for parameter in towards.head.parameters())


class Decoy(nn.Module):
    """Pixels as the embedding. The likeliest prototype of the wrong class is out of reach, the other one is not."""

    def __init__(self) -> None:
        super().__init__()
        self.head = MultiPrototypeHead(16, 2, prototypes_per_class=[1, 2])
        with torch.no_grad():
            self.head.prototypes.copy_(torch.tensor([[0.0, 0.0], [2.0, -10.0]])[:, :, None].expand(2, 2, 16) / 16)
            self.head.bias.copy_(torch.tensor([0.0, 0.0, -2.0, 3.0]))

    def forward(self, x: Tensor) -> Output:
        embedding = x.flatten(1)
        return Output(self.head(embedding), embedding)


def test_each_wrong_prototype_is_tried() -> None:
    model, x, y = Decoy(), torch.full((8, 1, 4, 4), 0.5), torch.zeros(8, dtype=torch.int64)
    assert model.head.sub_logits(x[:1].flatten(1))[0, 1].tolist() == pytest.approx([-1, -2])
    likeliest = APGDT(Linf(0.25), head=model.head, num_targets=1, steps=20)(model, x, y)
    every = APGDT(Linf(0.25), head=model.head, steps=20)(model, x, y)
    assert likeliest.correct.all() and every.success.all()


@pytest.fixture
def trained(digits: Any) -> tuple[nn.Module, Tensor, Tensor]:
    """A network whose head has two prototypes per class: those of the linear head, moved apart a little."""
    model, x, y = digits(count=30)
    head = MultiPrototypeHead(128, 10, prototypes_per_class=2)
    with torch.no_grad():
        apart = 0.02 * F.normalize(torch.randn(10, 1, 128, generator=torch.Generator().manual_seed(0)), dim=2)
        head.prototypes.copy_(model.head.weight[:, None] + torch.cat([apart, -apart], 1))
        head.bias.copy_(model.head.bias.repeat_interleave(2))
    return with_head(copy.deepcopy(model), head), x, y


@pytest.mark.parametrize("threat", [Linf(0.15), L2(1.0)], ids=str)
def test_they_break_the_head_about_as_well_as_cross_entropy(trained: Any, threat: Any) -> None:
    model, x, y = trained
    plain = APGD(threat, steps=20)(model, x, y).correct
    assert 0.05 < plain.float().mean() < 0.9
    outcomes = {
        name: attack(model, x, y) for name, attack in adaptive_head_attacks(threat, model.head, steps=20).items()
    }
    assert list(outcomes) == [
        *(f"adaptive-head-{name}" for name in ("towards", "posterior", "leave", "approach")),
        "adaptive-displace",
    ]
    clean = (model(x).logits.argmax(1) == y).float().mean()
    for name, result in outcomes.items():
        assert result.correct.float().mean() < clean - 0.1, name
    assert outcomes["adaptive-head-towards"].correct.sum() <= plain.sum() + 1
    assert outcomes["adaptive-head-posterior"].correct.sum() <= plain.sum() + 3


def test_towards_a_target_class(trained: Any) -> None:
    model, x, y = trained
    towards = APGDT(Linf(0.3), head=multi_prototype_head(model), steps=20)
    result = towards(model, x, y, targets=(y + 1) % 10)
    assert torch.equal(result.success, model(result.x_adv).logits.argmax(1) == (y + 1) % 10)
    assert result.success.float().mean() > 0.3


def test_a_model_without_the_embedding_is_refused_by_name(trained: Any) -> None:
    model, x, y = trained

    class Plain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return model(x).logits

    with pytest.raises(ValueError, match=r"embeddings have shape \(30, 0\), expected \(B, 128\)"):
        APGDT(Linf(0.1), head=model.head)(Plain(), x, y)


def test_records_tell_them_apart() -> None:
    found = {name: attack.parameters() for name, attack in adaptive_head_attacks(Linf(0.1), head_of(2, 2)).items()}
    assert found["adaptive-head-towards"]["head"] == "protoat.models.multi_prototype.MultiPrototypeHead"
    assert found["adaptive-head-posterior"]["loss"] == "protoat.attacks.adaptive_head.LeaveMode"
