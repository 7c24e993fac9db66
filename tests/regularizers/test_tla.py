"""TLA against a slow reference that makes each forward and each triplet by hand."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from protoat import Objective
from protoat.methods import PGDAT, FreeAT
from protoat.regularizers import TLA
from protoat.threats import Linf
from protoat.types import Forwards, Output

X = torch.tensor([[1.0, 2, 3], [0, 1, -1], [2, -1, 0.5], [-1, -1, 2]])


class Net(nn.Module):
    """A small net with batch norm that notes how it was called."""

    def __init__(self, dim: int = 5) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(12, dim), nn.BatchNorm1d(dim))
        self.head = nn.Linear(dim, 3)
        self.calls: list[tuple[bool, bool, Tensor]] = []

    def forward(self, x: Tensor) -> Output:
        self.calls.append((self.training, torch.is_grad_enabled(), x.detach().clone()))
        embedding = self.body(x)
        return Output(self.head(embedding), embedding)


def step(net: Net, x: Tensor, *, clean: bool = False) -> Forwards:
    x_adv = (x + 0.2 * torch.rand_like(x).sub(0.5)).clamp(0, 1)
    views = Forwards(x_adv, net(x_adv), net(x) if clean else None)
    net.calls.clear()
    return views


def slow_t(a: Tensor, p: Tensor, n: Tensor, margin: float, reg: float) -> float:
    hinge = norm = 0.0
    for u, v, w in zip(a.double().tolist(), p.double().tolist(), n.double().tolist(), strict=True):
        length = [math.sqrt(sum(t * t for t in r)) for r in (u, v, w)]
        near = sum(s * t for s, t in zip(u, v, strict=True)) / length[0] / length[1]
        far = sum(s * t for s, t in zip(u, w, strict=True)) / length[0] / length[2]
        hinge += max(0.0, (1 - near) - (1 - far) + margin)
        norm += sum(t * t for t in u + v + w)
    return hinge / len(a) + reg * norm / a.numel()


def slow_negatives(net: Net, x_adv: Tensor, x: Tensor, y: Tensor) -> list[int]:
    eval_net = copy.deepcopy(net).eval()
    with torch.no_grad():
        a, q = eval_net(x_adv).embedding.double(), eval_net(x).embedding.double()
    found = []
    for i in range(len(y)):
        cosines = {j: float(a[i] @ q[j] / a[i].norm() / q[j].norm()) for j in range(len(y)) if y[j] != y[i]}
        found.append(max(cosines, key=lambda j: cosines[j]))
    return found


@pytest.mark.parametrize("triplets", ["both", "A_Ap_B", "A1_Ap_B"])
def test_term_is_the_published_sum_over_separate_forwards(triplets: Any) -> None:
    net, reference = Net(), Net()
    x, y = torch.rand(6, 3, 2, 2), torch.tensor([0, 1, 2, 0, 1, 2])
    net(torch.rand(6, 3, 2, 2))  # running statistics that differ from any batch's
    views = step(net, x)
    reference.load_state_dict(net.state_dict())
    negatives = slow_negatives(reference, views.x_adv, x, y)
    match = 0.0 if triplets == "A1_Ap_B" else 0.7
    tla = TLA(3, 5, margin=0.4, margin_same_image=0.9, triplets=triplets, norm_reg=0.01, match_l2=match)
    value = tla.term(net, x, y, views)

    # Each class has two images, so the other one is the only choice for A1.
    a, b = views.adv.embedding, reference(x[negatives]).embedding
    expected = 0.0
    if triplets != "A1_Ap_B":
        clean = reference(x).embedding
        expected += slow_t(a, clean, b, 0.9, 0.01) + match * float((a - clean).detach().double().pow(2).sum(1).mean())
    if triplets != "A_Ap_B":
        expected += slow_t(a, reference(x[[3, 4, 5, 0, 1, 2]]).embedding, b, 0.4, 0.01)
    assert value.item() == pytest.approx(expected, rel=1e-5)
    for name, buffer in net.named_buffers():
        torch.testing.assert_close(buffer, reference.get_buffer(name), msg=name)


def test_golden_norm_term() -> None:
    tla = TLA(2, 3, margin=0.03, norm_reg=1.0, absolute_cosine=True)
    value = tla._triplet(X[0:1], X[2:3], X[1:2], tla.margin)
    assert value.item() == pytest.approx(0.0440187 + 7.083333 * 3 / 3, abs=1e-5)


def test_forwards_and_their_modes() -> None:
    net = Net()
    x, y = torch.rand(4, 3, 2, 2), torch.tensor([0, 1, 0, 1])
    views = step(net, x)
    TLA(2, 5).term(net, x, y, views)
    modes = [(training, gradient) for training, gradient, _ in net.calls]
    assert modes == [(False, False)] * 2 + [(True, True)] * 3
    torch.testing.assert_close(net.calls[0][2], views.x_adv)
    torch.testing.assert_close(net.calls[1][2], x)
    assert all(module.training for module in net.modules())

    views = step(net, x, clean=True)
    TLA(2, 5).term(net, x, y, views)
    assert [training for training, _, _ in net.calls] == [False, False, True, True], "the method's clean view is used"


def test_gradient_reaches_the_net_and_not_the_images() -> None:
    net = Net()
    x, y = torch.rand(4, 3, 2, 2, requires_grad=True), torch.tensor([0, 1, 0, 1])
    views = step(net, x.detach())
    TLA(2, 5, margin=2.0).term(net, x, y, views).backward()
    assert x.grad is None
    assert net.body[1].weight.grad.abs().sum() > 0
    assert net.head.weight.grad is None


@pytest.mark.parametrize("part", ["anchor", "positive", "negative"])
def test_every_member_of_a_triplet_learns(part: str) -> None:
    members = {name: torch.rand(3, 4) for name in ("anchor", "positive", "negative")}
    members[part].requires_grad_()
    TLA(2, 4, margin=2.0)._triplet(*members.values(), 2.0).backward()
    assert members[part].grad is not None
    assert members[part].grad.abs().sum() > 0


def test_one_class_is_refused_and_leaves_the_net_in_training_mode() -> None:
    net = Net()
    x, y = torch.rand(3, 3, 2, 2), torch.tensor([1, 1, 1])
    views = step(net, x)
    with pytest.raises(ValueError, match="two classes"):
        TLA(2, 5).term(net, x, y, views)
    assert net.training
    assert net.body[2].training


def test_image_without_another_of_its_class_is_its_own_positive() -> None:
    net = Net()
    x, y = torch.rand(3, 3, 2, 2), torch.tensor([0, 1, 1])
    TLA(2, 5, triplets="A1_Ap_B").term(net, x, y, step(net, x))
    torch.testing.assert_close(net.calls[-1][2], x[[0, 2, 1]])


def test_pool_keeps_recent_batches_and_mines_in_them() -> None:
    net, tla = Net(), TLA(2, 5, mul_num=2)
    batches = [torch.rand(size, 3, 2, 2) for size in (4, 4, 4, 1, 4)]
    y = torch.tensor([0, 1, 0, 1])
    kept = []
    for x in batches:
        tla.term(net, x, y[: len(x)], step(net, x) if len(x) > 1 else step(net.eval(), x))
        net.train()
        kept.append(tla.pool_x.clone())
    assert [len(pool) for pool in kept] == [4, 8, 8, 8, 8], "a short batch does not shrink the pool"
    torch.testing.assert_close(kept[2], torch.cat(batches[1:3]))
    torch.testing.assert_close(kept[4], torch.cat([batches[2][1:], batches[3], batches[4]])[-8:])
    assert len(tla.pool_x) == len(tla.pool_y)


def test_negative_may_come_from_an_earlier_batch_of_another_class() -> None:
    net, tla = Net(), TLA(2, 5, mul_num=2, triplets="A_Ap_B")
    first, second = torch.rand(3, 3, 2, 2), torch.rand(3, 3, 2, 2)
    tla.term(net, first, torch.tensor([0, 1, 0]), step(net, first))
    views = step(net, second)
    tla.term(net, second, torch.tensor([1, 1, 1]), views)
    mined = next(images for training, _, images in net.calls if training)
    assert all(any(torch.equal(image, first[j]) for j in (0, 2)) for image in mined)


def test_replays_of_a_batch_enter_the_pool_once() -> None:
    net, tla = Net(), TLA(2, 5, mul_num=3)
    objective = Objective(FreeAT(Linf(0.1), replays=3), tla)
    for _ in range(2):
        for terms in objective.losses(net, torch.rand(4, 3, 2, 2), torch.tensor([0, 1, 0, 1])):
            terms.total.backward()
    assert len(tla.pool_x) == 8


def test_state_with_the_pool_makes_resumption_exact() -> None:
    def run(objective: Objective, net: Net, batches: list[Tensor], first: int) -> list[float]:
        values = []
        for number, x in enumerate(batches, start=first):
            torch.manual_seed(number)
            for terms in objective.losses(net, x, torch.tensor([0, 1, 0, 1])):
                assert terms.metric is not None
                terms.total.backward()
                values.append(terms.metric.item())
        return values

    def fresh() -> Objective:
        return Objective(PGDAT(Linf(0.1), steps=2), TLA(2, 5, mul_num=3))

    batches = [torch.rand(4, 3, 2, 2) for _ in range(5)]
    torch.manual_seed(0)
    net, objective = Net(), fresh()
    run(objective, net, batches[:3], 0)
    state = {key: value.clone() for key, value in objective.state_dict().items()}
    assert state["regularizer.pool_x"].shape[0] == 12, "each process has its own pool"
    resumed_net, resumed = copy.deepcopy(net), fresh()
    resumed.load_state_dict(state)
    assert run(resumed, resumed_net, batches[3:], 3) == run(objective, net, batches[3:], 3)
    empty = fresh()
    assert run(empty, copy.deepcopy(net), batches[3:], 3) != run(objective, net, batches[3:], 3), "the pool matters"


def test_bf16_autocast() -> None:
    net = Net()
    x, y = torch.rand(4, 3, 2, 2), torch.tensor([0, 1, 0, 1])
    views = step(net, x)
    with torch.autocast("cpu", torch.bfloat16):
        views = step(net, x)
        value = TLA(2, 5, match_l2=0.5).term(net, x, y, views)
    assert value.dtype == torch.float32
    value.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


def test_forward_takes_triplets_within_the_embeddings() -> None:
    embedding, y = torch.randn(6, 4), torch.tensor([0, 0, 1, 1, 2, 2])
    unit = nn.functional.normalize(embedding.double())
    negatives = [
        max((j for j in range(6) if y[j] != y[i]), key=lambda j, i=i: float(unit[i] @ unit[j])) for i in range(6)
    ]
    expected = slow_t(embedding, embedding[[1, 0, 3, 2, 5, 4]], embedding[negatives], 0.3, 1e-3)
    assert TLA(3, 4, margin=0.3)(embedding, y).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"margin": -0.1}, "must not be negative"),
        ({"norm_reg": -1.0}, "must not be negative"),
        ({"mul_num": 0}, "mul_num=0 must be at least 1"),
        ({"triplets": "B_Bp_A"}, "triplets='B_Bp_A' is unknown"),
        ({"triplets": "A1_Ap_B", "match_l2": 0.5}, "match_l2 compares A' with A"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TLA(2, 4, **arguments)
