"""The head with several prototypes per class, and how heads are found and replaced."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from protoat.functional.merging import merge_prototypes
from protoat.methods import Standard
from protoat.models import (
    LeNet,
    MultiPrototypeHead,
    classifier_head,
    freeze_all_but,
    multi_prototype_head,
    with_embedding,
    with_head,
)
from protoat.objective import Objective
from protoat.threats import Linf

# --- slow reference, written from the equation: loops over numbers, no tensors


def slow_scores(head: MultiPrototypeHead, z: list[float]) -> tuple[list[list[float]], list[float]]:
    """Scores of the prototypes in use of each class, and of the classes."""
    scores = []
    for c in range(head.num_classes):
        own = []
        for k in range(head.prototypes_per_class[c]):
            w = head.prototypes[c, k].tolist()
            product = math.fsum(a * b for a, b in zip(z, w, strict=True))
            if head.similarity == "cosine":
                product /= math.sqrt(math.fsum(a * a for a in z)) * math.sqrt(math.fsum(b * b for b in w))
            else:
                product += head.bias[c * head.prototypes.shape[1] + k].item()
            own.append(head.scale * product)
        scores.append(own)
    return scores, [math.log(math.fsum(math.exp(s) for s in own)) for own in scores]


CASES: list[dict[str, Any]] = [
    {"prototypes_per_class": 3},
    {"prototypes_per_class": [1, 4, 2], "scale": 0.7},
    {"prototypes_per_class": [2, 1, 3], "similarity": "cosine"},
    {"prototypes_per_class": 1, "similarity": "cosine", "scale": 5.0},
]


@pytest.mark.parametrize("options", CASES, ids=str)
def test_scores_are_those_of_the_equation(options: dict[str, Any]) -> None:
    head, z = MultiPrototypeHead(6, 3, **options).double(), torch.randn(5, 6, dtype=torch.float64)
    sub, logits = head.sub_logits(z), head(z)
    assert torch.equal(sub.isneginf(), ~head.active.expand(5, -1, -1))
    for row in range(5):
        expected, classes = slow_scores(head, z[row].tolist())
        assert sub[row][head.active].tolist() == pytest.approx([s for own in expected for s in own])
        assert logits[row].tolist() == pytest.approx(classes)
    posterior = sub.flatten(1).softmax(1).view_as(sub)
    torch.testing.assert_close(logits.softmax(1), posterior.sum(2))


def test_with_one_prototype_it_is_the_linear_head_bit_for_bit() -> None:
    def trained(build: Callable[[], nn.Module]) -> list[Tensor]:
        torch.manual_seed(3)
        head = build()
        optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
        seen = []
        for step in range(3):
            z = torch.randn(8, 6, generator=torch.Generator().manual_seed(step)).requires_grad_()
            logits = head(z)
            optimizer.zero_grad()
            F.cross_entropy(logits, torch.arange(8) % 3).backward()
            optimizer.step()
            seen += [
                logits.detach(),
                z.grad,
                *(parameter.detach().clone().flatten() for parameter in head.parameters()),
            ]
        return seen

    linear = trained(lambda: nn.Linear(6, 3))
    ours = trained(lambda: MultiPrototypeHead(6, 3, prototypes_per_class=1))
    assert len(linear) == len(ours) == 12
    assert all(torch.equal(a, b) for a, b in zip(linear, ours, strict=True))


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_places_not_in_use_have_no_part(similarity: Any) -> None:
    head, z = MultiPrototypeHead(6, 2, prototypes_per_class=[1, 3], similarity=similarity), torch.randn(4, 6)
    before = head(z)
    before.sum().backward()
    assert not head.prototypes.grad[~head.active].any() and head.prototypes.grad[head.active].any()
    with torch.no_grad():
        head.prototypes[~head.active] = 1e6
    assert torch.equal(head(z), before)


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_scores_are_in_single_precision_under_autocast(similarity: Any) -> None:
    head, z = MultiPrototypeHead(6, 2, similarity=similarity), torch.randn(4, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert (head.sub_logits(z.bfloat16()).dtype, head(z).dtype) == (torch.float32, torch.float32)


def test_an_embedding_of_length_zero_has_finite_scores_and_gradients() -> None:
    head, z = MultiPrototypeHead(6, 2, similarity="cosine"), torch.zeros(1, 6, requires_grad=True)
    head(z).sum().backward()
    torch.testing.assert_close(head(z), torch.full((1, 2), math.log(10)))
    assert not z.grad.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prototypes_per_class": [2]}, "has 1 numbers, expected one for each of 3 classes"),
        ({"prototypes_per_class": 0}, "prototypes_per_class=0 must be at least 1"),
        ({"similarity": "l2"}, "similarity='l2' is unknown; write 'dot' or 'cosine'"),
        ({"scale": 0}, "scale=0 must be positive"),
        ({"merge_threshold": 2}, r"merge_threshold=2 is outside \[0, 2\)"),
        ({"merge_start": 0.95}, r"merge_start=0.95 and merge_stop=0.9 must rise"),
    ],
)
def test_mistakes_in_building_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiPrototypeHead(6, 3, **options)
    with pytest.raises(ValueError, match=r"embeddings have shape \(2, 5\), expected \(B, 6\)"):
        MultiPrototypeHead(6, 3)(torch.zeros(2, 5))


# --- in a model


class Plain(nn.Module):
    """A network of the ordinary kind, whose head has a name of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU())
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x))


X = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
MODELS: dict[str, Callable[[], nn.Module]] = {
    "plain": Plain,
    "wrapped": lambda: with_embedding(Plain()),
    "wrapped, used": lambda: with_embedding(Plain(), example=X),
    "averaged": lambda: AveragedModel(Plain()),
    "compiled": lambda: torch.compile(Plain(), backend="eager"),
    "ours": lambda: LeNet(3, image_size=8),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_head_is_found_and_replaced_in_any_model(name: str) -> None:
    model = MODELS[name]()
    old = classifier_head(model)
    assert isinstance(old, nn.Linear) and old.out_features == 3 and multi_prototype_head(model) is None
    head = MultiPrototypeHead(old.in_features, 3, prototypes_per_class=2)
    assert with_head(model.eval(), head) is model
    assert multi_prototype_head(model) is classifier_head(model) is head
    assert old not in list(model.modules()) and not head.training
    output = model(torch.rand(4, 1, 8, 8) if name == "ours" else X)
    if not isinstance(output, Tensor):
        assert torch.equal(head(output.embedding), output.logits)


def test_the_embedding_of_a_replaced_head_is_found() -> None:
    net = with_head(Plain(), MultiPrototypeHead(6, 3))
    model = with_embedding(net, example=X)
    assert (model.layer, model.embedding_dim) == ("the input of fc", 6)
    assert torch.equal(model(X).embedding, net.body(X))


def test_a_head_that_does_not_fit_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"the head is for \(embedding_dim, num_classes\)=\(5, 3\), the model for \(6, 3"
    ):
        with_head(Plain(), MultiPrototypeHead(5, 3))
    with pytest.raises(ValueError, match="the model is a head itself"):
        with_head(MultiPrototypeHead(6, 3), MultiPrototypeHead(6, 3))
    with pytest.raises(ValueError, match="has no linear layer"):
        with_head(nn.ReLU(), MultiPrototypeHead(6, 3))


def test_the_head_alone_may_learn() -> None:
    model = freeze_all_but(with_head(LeNet(3, image_size=8), MultiPrototypeHead(100, 3)), "head")
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert learning == ["head.prototypes", "head.bias"]
    model = freeze_all_but(with_head(LeNet(3, image_size=8), MultiPrototypeHead(100, 3)), "last_block")
    assert [p.requires_grad for p in model.features[7].parameters()] == [True, True]


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_it_is_exported_as_any_module(similarity: Any) -> None:
    net = with_head(Plain(), MultiPrototypeHead(6, 3, prototypes_per_class=[1, 2, 3], similarity=similarity)).eval()
    exported = torch.export.export(net, (X,)).module()
    torch.testing.assert_close(exported(X), net(X))
    other = with_head(Plain(), MultiPrototypeHead(6, 3, prototypes_per_class=3, similarity=similarity))
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(X), net(X))


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_a_head_in_bfloat16_takes_the_embeddings_that_attacks_hold(similarity: Any) -> None:
    head, z = MultiPrototypeHead(6, 2, prototypes_per_class=3, similarity=similarity).bfloat16(), torch.randn(5, 6)
    assert torch.equal(head.sub_logits(z), copy.deepcopy(head).float().sub_logits(z))


# --- merging


@pytest.mark.parametrize("options", [{}, {"scale": 3.0}, {"similarity": "cosine"}], ids=str)
def test_prototypes_that_agree_merge_without_a_change_of_scores(options: dict[str, Any]) -> None:
    head, z = MultiPrototypeHead(6, 2, prototypes_per_class=4, **options), torch.randn(5, 6)
    with torch.no_grad():
        head.prototypes[0, 2:] = head.prototypes[0, :1]
        head.prototypes[1, 3] = head.prototypes[1, 1]
    before = head(z)
    assert head.merge(1e-2) == [[0, 0, 2], [1, 1, 3], [0, 0, 3]]
    assert head.active.tolist() == [[True, True, False, False], [True, True, True, False]]
    torch.testing.assert_close(head(z), before, rtol=1e-4, atol=1e-5)
    assert head.merge(1e-2) == []
    other = MultiPrototypeHead(6, 2, prototypes_per_class=4, **options)
    other.load_state_dict(head.state_dict())
    assert torch.equal(other(z), head(z))


def test_merges_are_those_of_the_functional_and_leave_no_momentum() -> None:
    head = MultiPrototypeHead(6, 2, prototypes_per_class=3)
    with torch.no_grad():
        head.prototypes[1, 2] = 5 * head.prototypes[1, 0] + 0.01
    optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
    F.cross_entropy(head(torch.randn(8, 6)), torch.arange(8) % 2).backward()
    optimizer.step()
    expected = merge_prototypes(head.prototypes, head.active, torch.ones(2, 3), 0.4)
    assert expected.pairs.tolist() == [[1, 0, 2]] == head.merge(0.4, optimizer)
    assert torch.equal(head.prototypes, expected.prototypes)
    for parameter, kept, gone in ((head.prototypes, (1, 0), (1, 2)), (head.bias, 3, 5)):
        state = optimizer.state[parameter]
        assert not state["exp_avg"][kept].any() and not state["exp_avg"][gone].any()
        assert state["exp_avg_sq"][kept].any() and not state["exp_avg_sq"][gone].any()


def test_an_epoch_ends_with_the_merges_that_are_due() -> None:
    head = MultiPrototypeHead(6, 3, prototypes_per_class=4, merge_threshold=1.9, merge_start=0.5, merge_stop=1.0)
    net = with_head(Plain(), head)
    batches = [(torch.rand(6, 1, 4, 4), torch.arange(6) % 3)] * 2
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    objective, seen = Objective(Standard(Linf(0.1))), []
    for epoch in objective.epochs(4, net, optimizer):
        for x, y in epoch.batches(batches):
            for terms in objective.losses(net, x, y):
                optimizer.zero_grad()
                terms.total.backward()
                optimizer.step()
        seen.append(epoch.end().facts)
    assert seen[0] == {"head_prototypes": [4, 4, 4], "head_merged": []}
    assert seen[1]["head_prototypes"] == head.active.sum(1).tolist() != [4, 4, 4]
    assert len(seen[1]["head_merged"]) == 12 - sum(seen[1]["head_prototypes"])
    assert MultiPrototypeHead(6, 3).end_epoch(1, 1) == {}
    assert MultiPrototypeHead(6, 3).unreached(1) == []
    assert "prototypes never merge" in MultiPrototypeHead(6, 3, merge_threshold=0.1).unreached(1)[0]
