"""The adaptors against float64 loops, the published golden values, and the library itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning import losses
from pytorch_metric_learning.distances import DotProductSimilarity
from torch import Tensor

from protoat.regularizers import NPair, ProxyAnchor, ProxyNCA, Regularizer, Triplet

X = torch.tensor([[1.0, 2, 3], [0, 1, -1], [2, -1, 0.5], [-1, -1, 2]])
Y = torch.tensor([0, 1, 0, 1])
PROXIES = torch.tensor([[1.0, 0, 0], [0, 1, -1]])
ALL: list[type[Any]] = [Triplet, NPair, ProxyNCA, ProxyAnchor]


def with_proxies(regularizer: Regularizer) -> Regularizer:
    with torch.no_grad():
        regularizer.loss.proxies.copy_(PROXIES)
    return regularizer


def cosine(u: list[float], v: list[float]) -> float:
    return sum(a * b for a, b in zip(u, v, strict=True)) / math.hypot(*u) / math.hypot(*v)


def slow_triplet(z: Tensor, y: Tensor, margin: float) -> float:
    rows, active = F.normalize(z.double()).tolist(), []
    for a in range(len(y)):
        for p in (p for p in range(len(y)) if p != a and y[p] == y[a]):
            for n in (n for n in range(len(y)) if y[n] != y[a]):
                value = math.dist(rows[a], rows[p]) - math.dist(rows[a], rows[n]) + margin
                active += [value] if value > 0 else []
    return sum(active) / len(active) if active else 0.0


def slow_npair(z: Tensor, y: Tensor, limit: int | None, norm_reg: float) -> float:
    rows, problems = z.double().tolist(), {}
    for c in sorted(set(y.tolist())):
        members = [i for i in range(len(y)) if y[i] == c]
        for m in range(min(len(members) // 2, limit or len(y))):
            problems.setdefault(m, []).append((members[2 * m], members[2 * m + 1]))
    dot = lambda i, j: sum(a * b for a, b in zip(rows[i], rows[j], strict=True))  # noqa: E731
    pairs = [pair for problem in problems.values() for pair in problem]
    if not pairs:
        return 0.0
    total = 0.0
    for problem in problems.values():
        for a, p in problem:
            total += math.log(1 + sum(math.exp(dot(a, q) - dot(a, p)) for _, q in problem if q != p))
    lengths = [dot(i, i) for pair in pairs for i in pair]
    return total / len(pairs) + norm_reg * sum(lengths) / len(lengths)


def slow_proxy_nca(z: Tensor, y: Tensor, proxies: Tensor, scale: float) -> float:
    total = 0.0
    for row, label in zip(z.double().tolist(), y.tolist(), strict=True):
        logits = [scale * (2 * cosine(row, p) - 2) for p in proxies.double().tolist()]
        top = max(logits)
        total += top + math.log(sum(math.exp(t - top) for t in logits)) - logits[label]
    return total / len(y)


def slow_proxy_anchor(z: Tensor, y: Tensor, proxies: Tensor, margin: float, alpha: float) -> float:
    positive = negative = 0.0
    for c, proxy in enumerate(proxies.double().tolist()):
        own = [cosine(row, proxy) for row, k in zip(z.double().tolist(), y.tolist(), strict=True) if k == c]
        others = [cosine(row, proxy) for row, k in zip(z.double().tolist(), y.tolist(), strict=True) if k != c]
        positive += math.log(1 + sum(math.exp(-alpha * (s - margin)) for s in own))
        negative += math.log(1 + sum(math.exp(alpha * (s + margin)) for s in others))
    return positive / len(set(y.tolist())) + negative / len(proxies)


def test_golden_values() -> None:
    assert Triplet(2, 3)(X, Y).item() == pytest.approx(0.455079, abs=2e-6)
    assert NPair(2, 3, norm_reg=0.0)(X, Y).item() == pytest.approx(1.701413, abs=2e-6)
    assert NPair(2, 3, norm_reg=0.0, normalize=True)(X, Y).item() == pytest.approx(0.843555, abs=2e-6)
    assert with_proxies(ProxyNCA(2, 3, softmax_scale=1, projection=None))(X, Y).item() == pytest.approx(
        0.445896, abs=2e-6
    )
    assert with_proxies(ProxyNCA(2, 3, projection=None))(X, Y).item() == pytest.approx(7.324433, abs=2e-5)
    assert with_proxies(ProxyAnchor(2, 3, projection=None))(X, Y).item() == pytest.approx(17.106938, abs=2e-5)


@pytest.mark.parametrize("classes", [2, 5])
def test_against_loops_written_from_the_equations(classes: int) -> None:
    z, y = torch.randn(23, 6), torch.randint(0, classes, (23,))
    assert Triplet(classes, 6, margin=0.2)(z, y).item() == pytest.approx(slow_triplet(z, y, 0.2), rel=1e-5)
    for limit in (None, 1, 2):
        value = NPair(classes, 6, pairs_per_class=limit)(z, y).item()
        assert value == pytest.approx(slow_npair(z, y, limit, 0.02), rel=1e-5)
    nca = ProxyNCA(classes, 6, softmax_scale=9, projection=None)
    anchor = ProxyAnchor(classes, 6, margin=0.2, alpha=16, projection=None)
    assert nca(z, y).item() == pytest.approx(slow_proxy_nca(z, y, nca.loss.proxies, 9), rel=1e-5)
    assert anchor(z, y).item() == pytest.approx(slow_proxy_anchor(z, y, anchor.loss.proxies, 0.2, 16), rel=1e-5)


def test_against_the_library() -> None:
    z, y = torch.randn(24, 6, requires_grad=True), torch.arange(24) % 4
    nca, anchor = ProxyNCA(4, 6, softmax_scale=9, projection=None), ProxyAnchor(4, 6, projection=None)
    npairs = losses.NPairsLoss(distance=DotProductSimilarity(normalize_embeddings=False))
    pairs: list[tuple[Callable[..., Tensor], Callable[..., Tensor]]] = [
        (Triplet(4, 6, margin=0.1), losses.TripletMarginLoss(margin=0.1)),
        (NPair(4, 6, pairs_per_class=1, norm_reg=0.0), npairs),
        (NPair(4, 6, pairs_per_class=1, norm_reg=0.0, normalize=True), losses.NPairsLoss()),
        (nca, nca.loss),
        (anchor, anchor.loss),
    ]
    for ours, theirs in pairs:
        value, expected = ours(z, y), theirs(z, y)
        torch.testing.assert_close(value, expected)
        (gradient,), (expected_gradient,) = torch.autograd.grad(value, z), torch.autograd.grad(expected, z)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-6)


def test_two_classes_use_every_image_where_the_library_uses_two_pairs() -> None:
    z, y = torch.randn(128, 8, requires_grad=True), torch.arange(128) % 2
    (ours,) = torch.autograd.grad(NPair(2, 8)(z, y), z)
    (theirs,) = torch.autograd.grad(losses.NPairsLoss()(z, y), z)
    assert int(theirs.any(1).sum()) == 4
    assert int(ours.any(1).sum()) == 128


def test_proxy_nca_keeps_the_images_whose_probability_underflows() -> None:
    """Opposite to its own proxy and on the other one: the library's value is 0/0, its gradient nothing."""
    regularizer = ProxyNCA(2, 2, projection=None)
    with torch.no_grad():
        regularizer.loss.proxies.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    z, y = torch.tensor([[-1.0, 0.01]], requires_grad=True), torch.tensor([0])
    assert regularizer.loss(z, y).isnan()
    value = regularizer(z, y)
    assert value.item() == pytest.approx(slow_proxy_nca(z.detach(), y, regularizer.loss.proxies, 32), rel=1e-5)
    assert torch.autograd.grad(value, z)[0].any()


@pytest.mark.parametrize("kind", ALL)
def test_half_precision_is_computed_in_float32_and_leaves_the_parameters_alone(kind: type[Any]) -> None:
    regularizer = kind(2, 8)
    z, y = torch.randn(8, 8).bfloat16().requires_grad_(), torch.arange(8) % 2
    expected = regularizer(z.float(), y)
    identities = [(id(p), p.data_ptr()) for p in regularizer.parameters()]
    for autocast in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            value = regularizer(z, y)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected)
        assert torch.autograd.grad(value, z)[0].isfinite().all()
    assert [(id(p), p.data_ptr()) for p in regularizer.parameters()] == identities
    assert all(p.dtype == torch.float32 for p in regularizer.parameters())


@pytest.mark.parametrize("kind", [Triplet, NPair])
@pytest.mark.parametrize("y", [[0, 1, 2, 3], [0]])
def test_batch_without_a_positive_pair_gives_zero_with_a_graph(kind: type[Any], y: list[int]) -> None:
    z = torch.randn(len(y), 6, requires_grad=True)
    value = kind(4, 6)(z, torch.tensor(y))
    assert value.item() == 0
    (gradient,) = torch.autograd.grad(value, z)
    assert not gradient.any()


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("y", [[0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 2, 3], [2]])
def test_odd_batches_stay_finite_and_reach_the_embedding(kind: type[Any], y: list[int]) -> None:
    z = torch.randn(len(y), 6, requires_grad=True)
    regularizer = kind(4, 6).train(len(y) > 1)  # batch norm of one image has no variance
    value = regularizer(z, torch.tensor(y))
    value.backward()
    assert value.shape == ()
    assert value.isfinite()
    assert z.grad is not None
    assert z.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.any() for p in regularizer.parameters()), "proxies learn"


@pytest.mark.parametrize("kind", ALL)
def test_equal_embeddings_have_a_finite_gradient(kind: type[Any]) -> None:
    z = torch.ones(6, 4, requires_grad=True)
    kind(2, 4)(z, torch.arange(6) % 2).backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("kind", [ProxyNCA, ProxyAnchor])
def test_checkpoint_round_trip(kind: type[Any]) -> None:
    first, second = kind(3, 5), kind(3, 5)
    z, y = torch.randn(7, 5), torch.arange(7) % 3
    assert first(z, y) != second(z, y)
    second.load_state_dict(first.state_dict())
    assert first(z, y) == second(z, y)


@pytest.mark.parametrize("kind", [ProxyNCA, ProxyAnchor])
def test_embeddings_of_another_size_are_refused(kind: type[Any]) -> None:
    with pytest.raises(ValueError, match=r"embeddings have shape \(7, 4\), expected \(B, 5\)"):
        kind(3, 5)(torch.randn(7, 4), torch.arange(7) % 3)


def test_drawn_triplets() -> None:
    z, y = torch.randn(12, 4), torch.arange(12) % 2
    torch.manual_seed(1)
    value = Triplet(2, 4, margin=3.0, triplets_per_anchor=5)(z, y)
    rows = F.normalize(z)
    distances = torch.cdist(rows, rows)
    assert 1 < value.item() < 5
    assert value.item() != pytest.approx(Triplet(2, 4, margin=3.0)(z, y).item(), abs=1e-6)
    assert distances.max() - distances.min() + 3 > value


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: NPair(2, 4, pairs_per_class=0), "pairs_per_class=0 must be at least 1"),
        (lambda: NPair(2, 4, norm_reg=-1), "norm_reg=-1 must not be negative"),
        (lambda: ProxyNCA(2, 4, softmax_scale=0), "softmax_scale=0 must be positive"),
    ],
)
def test_bad_arguments(build: Callable[[], Regularizer], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
