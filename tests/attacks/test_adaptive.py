"""Attacks that know the prototypes: golden values, what each of them moves, and the classifier by prototypes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protoat.attacks import (
    APGD,
    PGD,
    ApproachWrong,
    AutoAttack,
    EmbeddingDisplacement,
    LeaveOwn,
    PrototypeClassifier,
    WithSoftTriple,
    adaptive_attacks,
)
from protoat.functional.losses import cross_entropy
from protoat.functional.prototypes import prototype_similarity, soft_triple
from protoat.regularizers import SoftTriple
from protoat.threats import L2, Linf
from protoat.types import Output

X = torch.tensor([[1, 2, 3], [0, 1, -1], [2, -1, 0.5], [-1, -1, 2]])
Y = torch.tensor([0, 1, 0, 1])
W = torch.tensor([[[1.0, 0, 0], [0, 1, 1]], [[0, 1, -1], [-1, 0, 1]]])
OUTPUT = Output(torch.randn(4, 2, generator=torch.Generator().manual_seed(0)), X)


def test_golden_similarities() -> None:
    own = torch.tensor([0.944139, 1.0, 0.872836, 0.866025])
    torch.testing.assert_close(LeaveOwn(W, gamma=0.1)(OUTPUT, Y), -own, atol=1e-5, rtol=0)
    other = torch.tensor([0.376015, 0.0, -0.462910, 0.288020])
    torch.testing.assert_close(LeaveOwn(W, gamma=0.1)(OUTPUT, 1 - Y), -other, atol=1e-5, rtol=0)


def test_nearest_wrong_prototype_by_a_slow_loop() -> None:
    active = torch.tensor([[True, True], [True, False]])
    for row, label in enumerate(Y.tolist()):
        cosines = [
            F.cosine_similarity(X[row], W[c, k], dim=0)
            for c in range(2)
            for k in range(2)
            if c != label and active[c, k]
        ]
        ours = ApproachWrong(W, active)(OUTPUT, Y)[row]
        torch.testing.assert_close(ours, torch.stack(cosines).max())


def test_combined_loss_is_the_training_loss() -> None:
    settings = {"scale": 15.0, "gamma": 0.2, "margin": 0.1}
    active = torch.tensor([[True, True], [True, False]])
    ours = WithSoftTriple(W, active, weight=0.5, **settings)(OUTPUT, Y)
    metric = soft_triple(X, Y, W, active, **settings)
    torch.testing.assert_close(ours.mean(), cross_entropy(OUTPUT, Y).mean() + 0.5 * metric)
    assert ours.shape == (4,)


def test_training_on_does_not_move_the_attack() -> None:
    metric = SoftTriple(2, 3, prototypes_per_class=2)
    loss = LeaveOwn(metric.prototypes, metric.active)
    before = loss(OUTPUT, Y)
    with torch.no_grad():
        metric.prototypes.neg_()
        metric.active[:, 1] = False
    assert torch.equal(loss(OUTPUT, Y), before)


@pytest.fixture
def trained(digits: Callable[..., Any]) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """Model, images, labels, and two prototypes for each class: means of embeddings."""
    model, x, y = digits(count=60)
    embedding = F.normalize(model(x).embedding.detach(), dim=1)
    halves = [embedding[y == c].chunk(2) for c in range(10)]
    return model, x, y, torch.stack([torch.stack([half.mean(0) for half in pair]) for pair in halves])


def test_each_loss_moves_what_it_names(trained: Any) -> None:
    model, x, y, prototypes = trained
    right = PrototypeClassifier(model, prototypes)(x).logits.argmax(1) == y
    x, y = x[right], y[right]
    active = torch.ones(10, 2, dtype=torch.bool)

    def similarities(images: Tensor) -> Tensor:
        return prototype_similarity(model(images).embedding.detach(), prototypes, active)

    own = similarities(x).gather(1, y[:, None]).squeeze(1)
    wrong = similarities(x).scatter(1, y[:, None], -1).amax(1)
    left = similarities(PGD(Linf(0.1), loss=LeaveOwn(prototypes)).perturb(model, x, y))
    fallen = own - left.gather(1, y[:, None]).squeeze(1)
    assert fallen.min() > 0
    assert fallen.mean() > 0.03
    near = similarities(PGD(Linf(0.1), loss=ApproachWrong(prototypes)).perturb(model, x, y))
    assert (near.scatter(1, y[:, None], -1).amax(1) > wrong + 0.02).float().mean() > 0.95


def test_displacement_goes_further_than_cross_entropy(digits: Callable[..., Any]) -> None:
    model, x, y = digits(count=30)
    clean = model(x).embedding
    moved = EmbeddingDisplacement(Linf(0.05), steps=20).perturb(model, x, y)
    other = PGD(Linf(0.05), steps=20).perturb(model, x, y)
    still = (model(moved).logits.argmax(1) == y) & (model(other).logits.argmax(1) == y)
    far, near = ((model(images).embedding - clean).norm(dim=1)[still] for images in (moved, other))
    assert (far > near).float().mean() > 0.9
    assert far.mean() > 1.1 * near.mean()


def test_displacement_takes_models_without_embedding(digits: Callable[..., Any]) -> None:
    model, x, y = digits(count=30)

    class Plain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return model(x).logits

    assert EmbeddingDisplacement(L2(1.5), steps=20)(Plain(), x, y).correct.float().mean() < 0.5


def test_prototype_losses_say_what_a_model_lacks() -> None:
    x, y = torch.rand(2, 1, 1, 2), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="embeddings have shape"):
        PGD(Linf(0.1), loss=LeaveOwn(W))(nn.Flatten(), x, y)


def test_adaptive_attacks_break_the_head_about_as_well_as_cross_entropy(trained: Any) -> None:
    model, x, y, prototypes = trained
    plain = APGD(Linf(0.15), steps=20)(model, x, y).correct
    assert 0.05 < plain.float().mean() < 0.9
    outcomes = {
        name: attack(model, x, y) for name, attack in adaptive_attacks(Linf(0.15), prototypes, steps=20).items()
    }
    assert list(outcomes) == ["adaptive-combined", "adaptive-leave", "adaptive-approach", "adaptive-displace"]
    clean = (model(x).logits.argmax(1) == y).float().mean()
    for name, result in outcomes.items():
        assert result.correct.float().mean() < clean - 0.1, name
        assert bool(((result.x_adv - x).abs() <= 0.15 + 1e-6).all())
    assert abs(int(outcomes["adaptive-combined"].correct.sum() - plain.sum())) <= 3
    worst = torch.stack([plain, *(result.correct for result in outcomes.values())]).all(0)
    assert worst.sum() <= plain.sum()


def test_prototype_classifier_predicts_by_similarity_and_can_be_attacked(trained: Any) -> None:
    model, x, y, prototypes = trained
    metric = SoftTriple(10, 128, prototypes_per_class=2)
    with torch.no_grad():
        metric.prototypes.copy_(prototypes)
    judge = PrototypeClassifier(model, metric.prototypes, metric.active)
    output = judge(x)
    assert torch.equal(output.logits.argmax(1), metric.predict(model(x).embedding))
    assert torch.equal(output.embedding, model(x).embedding)
    assert not any(parameter is metric.prototypes for parameter in judge.parameters())
    result = APGD(Linf(0.15), steps=20)(judge, x, y)
    assert result.correct.float().mean() < (output.logits.argmax(1) == y).float().mean() - 0.2
    assert torch.equal(result.correct, metric.predict(model(result.x_adv).embedding) == y)
    assert AutoAttack(Linf(0.15)).version(judge(x[:1]).logits.shape[1]) == "standard"


def test_records_tell_the_losses_apart() -> None:
    names = [attack.parameters().get("loss") for attack in adaptive_attacks(Linf(0.1), W, weight=0.5).values()]
    assert names == [
        "protoat.attacks.adaptive.WithSoftTriple(weight=0.5, scale=20, gamma=0.3, margin=0.01)",
        "protoat.attacks.adaptive.LeaveOwn(gamma=0.3)",
        "protoat.attacks.adaptive.ApproachWrong(gamma=0.3)",
        None,
    ]
