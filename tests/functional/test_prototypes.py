from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.losses import SoftTripleLoss
from pytorch_metric_learning.regularizers import SparseCentersRegularizer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from protoat.functional.merging import count_prototypes, merge_prototypes
from protoat.functional.prototypes import prototype_similarity, prototype_spread, soft_triple, soft_triple_terms

Vector = list[float]

# Worked out in float64 with numpy, apart from this code.
X = torch.tensor([[1, 2, 3], [0, 1, -1], [2, -1, 0.5], [-1, -1, 2]], dtype=torch.float64)
Y = torch.tensor([0, 1, 0, 1])
W = torch.tensor([[[1, 0, 0], [0, 1, 1]], [[0, 1, -1], [-1, 0, 1]]], dtype=torch.float64)
ALL = torch.ones(2, 2, dtype=torch.bool)


# --- slow references, written from the equations: loops over numbers, no tensors


def unit(v: Vector) -> Vector:
    length = max(math.sqrt(sum(a * a for a in v)), 1e-12)
    return [a / length for a in v]


def dot(a: Vector, b: Vector) -> float:
    return sum(p * q for p, q in zip(a, b, strict=True))


def slow_similarity(z: Vector, centres: list[Vector], gamma: float) -> float:
    s = [dot(unit(z), unit(w)) for w in centres]
    weights = [math.exp(a / gamma) for a in s]
    return sum(w * a for w, a in zip(weights, s, strict=True)) / sum(weights)


def used(W: Tensor, active: Tensor) -> list[list[Vector]]:
    return [[w.tolist() for w, on in zip(W[c], active[c], strict=True) if on] for c in range(len(W))]


def slow_soft_triple(
    X: Tensor, y: Tensor, W: Tensor, active: Tensor, *, scale: float, gamma: float, margin: float
) -> float:
    total = 0.0
    for z, label in zip(X.tolist(), y.tolist(), strict=True):
        S = [slow_similarity(z, centres, gamma) for centres in used(W, active)]
        own = math.exp(scale * (S[label] - margin))
        total -= math.log(own / (own + sum(math.exp(scale * S[c]) for c in range(len(S)) if c != label)))
    return total / len(X)


def slow_spread(W: Tensor, active: Tensor) -> float:
    total, count = 0.0, 0
    for centres in used(W, active):
        for s in range(len(centres)):
            for t in range(s):
                total += math.sqrt(2 + 1e-5 - 2 * dot(unit(centres[t]), unit(centres[s])))
                count += 2
    return total / count if count else 0.0


def slow_merge(
    W: Tensor, active: Tensor, mass: Tensor, threshold: float
) -> tuple[list[list[Vector]], list[list[bool]], set[tuple[int, int, int]]]:
    rows, live, weight, pairs = W.tolist(), active.tolist(), mass.tolist(), set()
    for c in range(len(rows)):
        while True:
            best = (threshold, -1, -1)
            for t in range(len(rows[c])):
                for s in range(t + 1, len(rows[c])):
                    if live[c][t] and live[c][s]:
                        gap = math.dist(unit(rows[c][t]), unit(rows[c][s]))
                        best = min(best, (gap, t, s)) if gap < best[0] else best
            _, t, s = best
            if t < 0:
                break
            m, n = weight[c][t], weight[c][s]
            a, b = (m, n) if m + n > 0 else (1.0, 1.0)
            ut, us = unit(rows[c][t]), unit(rows[c][s])
            length = (math.hypot(*rows[c][t]) + math.hypot(*rows[c][s])) / 2
            rows[c][t] = [length * v for v in unit([a * p + b * q for p, q in zip(ut, us, strict=True)])]
            weight[c][t], live[c][s] = m + n, False
            pairs.add((c, t, s))
    return rows, live, pairs


def random_case(seed: int, B: int, C: int, K: int, D: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(B, D, generator=g, dtype=torch.float64)
    W = torch.randn(C, K, D, generator=g, dtype=torch.float64)
    active = torch.rand(C, K, generator=g) < 0.7
    active[torch.arange(C), torch.randint(K, (C,), generator=g)] = True
    return z, torch.randint(C, (B,), generator=g), W, active


sizes = st.tuples(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 4), st.integers(1, 5), st.integers(1, 6))


# --- against the references


@settings(max_examples=60)
@given(sizes, st.floats(0.5, 30), st.floats(0.05, 2), st.floats(0, 0.3))
def test_soft_triple_is_the_equation(case: Any, scale: float, gamma: float, margin: float) -> None:
    z, y, W, active = random_case(*case)
    expected = slow_soft_triple(z, y, W, active, scale=scale, gamma=gamma, margin=margin)
    got = soft_triple(z, y, W, active, scale=scale, gamma=gamma, margin=margin)
    assert got.dtype == torch.float64
    assert got.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    single = soft_triple(z.float(), y, W.float(), active, scale=scale, gamma=gamma, margin=margin)
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(expected, rel=1e-3, abs=1e-4)


@settings(max_examples=60)
@given(sizes)
def test_spread_is_the_equation(case: Any) -> None:
    z, y, W, active = random_case(*case)
    assert prototype_spread(W, active).item() == pytest.approx(slow_spread(W, active), rel=1e-6)
    assert soft_triple_terms(z, y, W, active).spread.item() == pytest.approx(slow_spread(W, active), rel=1e-6)


@settings(max_examples=40)
@given(sizes)
def test_similarity_and_assignment_are_the_equations(case: Any) -> None:
    z, y, W, active = random_case(*case)
    expected = [[slow_similarity(row, centres, 0.1) for centres in used(W, active)] for row in z.tolist()]
    torch.testing.assert_close(prototype_similarity(z, W, active), torch.tensor(expected, dtype=torch.float64))
    assignment = soft_triple_terms(z, y, W, active).assignment
    torch.testing.assert_close(assignment.sum(1), torch.ones(len(z), dtype=torch.float64))
    assert (assignment[~active[y]] == 0).all()


@settings(max_examples=80)
@given(sizes, st.floats(0.01, 1.9), st.booleans())
def test_merge_is_what_the_loops_do(case: Any, threshold: float, weigh: bool) -> None:
    _, _, W, active = random_case(*case)
    mass = torch.rand(W.shape[:2], dtype=torch.float64) if weigh else torch.zeros(W.shape[:2], dtype=torch.float64)
    before = W.clone(), active.clone(), mass.clone()
    rows, live, pairs = slow_merge(W, active, mass, threshold)
    got = merge_prototypes(W, active, mass, threshold)
    assert got.active.tolist() == live
    torch.testing.assert_close(got.prototypes, torch.tensor(rows, dtype=torch.float64))
    assert {tuple(pair) for pair in got.pairs.tolist()} == pairs
    assert len(got.pairs) == len(pairs)
    assert all(torch.equal(a, b) for a, b in zip(before, (W, active, mass), strict=True))


# --- golden values


@pytest.mark.parametrize(
    ("scale", "margin", "data", "total"), [(20, 0.01, 6.46265e-6, 0.157320), (10, 0.1, 4.428268e-3, 0.161742)]
)
def test_golden_loss(scale: float, margin: float, data: float, total: float) -> None:
    terms = soft_triple_terms(X, Y, W, ALL, scale=scale, margin=margin)
    assert terms.data.item() == pytest.approx(data, rel=1e-5)
    assert (terms.data + 0.2 * terms.spread).item() == pytest.approx(total, abs=1e-6)


def test_golden_similarity() -> None:
    expected = [[0.944139, 0.376015], [0.0, 1.0], [0.872836, -0.462910], [0.288020, 0.866025]]
    torch.testing.assert_close(
        prototype_similarity(X, W, ALL), torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0
    )


def test_golden_spread() -> None:
    three = torch.ones(2, 3, dtype=torch.bool)
    assert prototype_spread(W, ALL).item() == pytest.approx(0.786568, abs=1e-6)
    assert prototype_spread(torch.eye(3).double().expand(2, 3, 3), three).item() == pytest.approx(0.7071085, abs=1e-7)
    assert prototype_spread(torch.ones(2, 3, 3).double(), three).item() == pytest.approx(0.00158114, abs=1e-8)


# --- properties


@settings(max_examples=25)
@given(sizes, st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_lengths_do_not_count(case: Any, a: float, b: float) -> None:
    z, y, W, active = random_case(*case)
    torch.testing.assert_close(soft_triple(a * z, y, b * W, active), soft_triple(z, y, W, active))
    torch.testing.assert_close(prototype_spread(b * W, active), prototype_spread(W, active))


@settings(max_examples=25)
@given(sizes)
def test_order_and_inactive_places_do_not_count(case: Any) -> None:
    z, y, W, active = random_case(*case)
    expected = soft_triple_terms(z, y, W, active)
    order = torch.randperm(W.shape[1])
    shuffled = soft_triple_terms(z, y, W[:, order], active[:, order])
    torch.testing.assert_close(shuffled[:2], expected[:2])
    more = torch.cat([W, torch.randn(len(W), 2, W.shape[2], dtype=torch.float64)], 1)
    padded = soft_triple_terms(z, y, more, torch.cat([active, torch.zeros(len(W), 2, dtype=torch.bool)], 1))
    torch.testing.assert_close(padded[:2], expected[:2])


def test_equal_prototypes_are_one() -> None:
    z, y, W, _ = random_case(0, 6, 3, 1, 5)
    many, on = W.expand(3, 4, 5), torch.ones(3, 4, dtype=torch.bool)
    torch.testing.assert_close(soft_triple(z, y, many, on), soft_triple(z, y, W, on[:, :1]))
    assert prototype_spread(many, on).item() == pytest.approx(math.sqrt(1e-5) / 2)
    assert prototype_spread(W, on[:, :1]).item() == 0


def test_without_scale_the_loss_is_chance() -> None:
    z, y, W, active = random_case(0, 6, 5, 3, 4)
    assert soft_triple(z, y, W, active, scale=1e-9).item() == pytest.approx(math.log(5), abs=1e-6)


def test_what_the_library_adds_under_the_root_is_lost_where_ours_is_not() -> None:
    w = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert SparseCentersRegularizer(1, 2)(w).item() == 0
    assert prototype_spread(w[None], torch.ones(1, 2, dtype=torch.bool)).item() == pytest.approx(math.sqrt(1e-5) / 2)


def test_spread_pulls_prototypes_together() -> None:
    W = torch.tensor([[[1.0, 0.0], [0.6, 0.8]]], requires_grad=True)
    on = torch.ones(1, 2, dtype=torch.bool)
    before = prototype_spread(W, on)
    (gradient,) = torch.autograd.grad(before, W)
    assert prototype_spread(W.detach() - 0.1 * gradient, on) < before


# --- gradients


def test_gradients_of_the_terms() -> None:
    z, y, W, active = random_case(3, 4, 3, 3, 4)
    z.requires_grad_()
    W.requires_grad_()

    def total(z: Tensor, W: Tensor) -> Tensor:
        terms = soft_triple_terms(z, y, W, active, scale=5.0)
        return terms.data + 0.2 * terms.spread

    assert torch.autograd.gradcheck(total, (z, W))
    assert torch.autograd.gradgradcheck(total, (z, W))
    assert torch.autograd.gradcheck(lambda W: prototype_spread(W, active), (W,))
    assert torch.autograd.gradcheck(lambda z: prototype_similarity(z, W.detach(), active), (z,))


def test_gradient_of_equal_prototypes_is_finite_and_zero_of_inactive_ones() -> None:
    W = torch.randn(2, 1, 64).repeat(1, 3, 1).requires_grad_()
    active = torch.tensor([[True, True, False], [True, True, True]])
    terms = soft_triple_terms(torch.randn(5, 64), torch.tensor([0, 1, 0, 1, 1]), W, active)
    (gradient,) = torch.autograd.grad(terms.data + terms.spread, W)
    assert gradient.isfinite().all()
    assert gradient[active].abs().amax() > 0
    assert (gradient[~active] == 0).all()


def test_a_zero_vector_has_no_direction() -> None:
    z = torch.zeros(1, 3, requires_grad=True)
    W = torch.eye(3)[:2, None].repeat(1, 2, 1)
    W[1, 1] = 0
    W.requires_grad_()
    terms = soft_triple_terms(z, torch.tensor([0]), W, ALL, margin=0.0)
    assert terms.data.item() == pytest.approx(math.log(2))
    for gradient in torch.autograd.grad(terms.data + terms.spread, (z, W)):
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 100


def test_gradient_goes_through_the_softmax() -> None:
    z, y, W, active = random_case(1, 4, 2, 3, 4)
    W.requires_grad_()
    (full,) = torch.autograd.grad(soft_triple(z, y, W, active), W)
    unit_z, unit_w = torch.nn.functional.normalize(z, dim=1), torch.nn.functional.normalize(W, dim=2)
    s = torch.einsum("bd,ckd->bck", unit_z, unit_w)
    p = (s / 0.1).masked_fill(~active, -torch.inf).softmax(2)
    for weights, equal in ((p, True), (p.detach(), False)):
        logits = 20 * ((weights * s).sum(2) - 0.01 * torch.eye(2)[y])
        (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, y), W, retain_graph=True)
        assert torch.allclose(gradient, full) is equal


# --- precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_embeddings_are_computed_in_single(dtype: torch.dtype) -> None:
    z, y, W, active = random_case(2, 8, 3, 4, 16)
    z, W = z.to(dtype).requires_grad_(), W.float().requires_grad_()
    expected = soft_triple_terms(z.detach().double(), y, W.detach().double(), active)
    with torch.autocast("cpu", torch.bfloat16):
        terms = soft_triple_terms(z, y, W, active)
        spread = prototype_spread(W, active)
        similarity = prototype_similarity(z, W, active)
        (terms.data + terms.spread).backward()
    assert {t.dtype for t in (*terms, spread, similarity)} == {torch.float32}
    assert terms.data.item() == pytest.approx(expected.data.item(), rel=1e-4)
    assert spread.item() == pytest.approx(expected.spread.item(), rel=1e-5)
    assert z.grad is not None
    assert z.grad.dtype == dtype
    assert W.grad is not None
    reference = W.detach().double().requires_grad_()
    terms64 = soft_triple_terms(z.detach().double(), y, reference, active)
    (gradient,) = torch.autograd.grad(terms64.data + terms64.spread, reference)
    torch.testing.assert_close(W.grad.double(), gradient, rtol=1e-4, atol=1e-5)


# --- the other library


def library_loss(W: Tensor, *, spread: bool) -> SoftTripleLoss:
    C, K, D = W.shape
    more = {"weight_regularizer": SparseCentersRegularizer(C, K), "weight_reg_weight": 1.0} if spread else {}
    loss = SoftTripleLoss(C, D, K, **more)
    loss.fc.data = W.detach().reshape(C * K, D).T.clone()
    return loss


def test_data_term_is_that_of_pytorch_metric_learning() -> None:
    z, y, W, _ = random_case(5, 16, 4, 3, 8)
    z.requires_grad_()
    W.requires_grad_()
    theirs = library_loss(W, spread=False)
    expected = theirs(z, y)
    ours = soft_triple(z, y, W, torch.ones(4, 3, dtype=torch.bool))
    torch.testing.assert_close(ours, expected)
    of_z, of_fc = torch.autograd.grad(expected, (z, theirs.fc))
    torch.testing.assert_close(torch.autograd.grad(ours, (z, W)), (of_z, of_fc.T.view_as(W)))


def test_spread_differs_from_pytorch_metric_learning_by_the_number_in_the_root() -> None:
    z, y, W, _ = random_case(5, 16, 4, 3, 8)
    on = torch.ones(4, 3, dtype=torch.bool)

    def theirs(W: Tensor) -> float:
        return (library_loss(W, spread=True)(z, y) - library_loss(W, spread=False)(z, y)).item()

    assert prototype_spread(W, on).item() == pytest.approx(theirs(W), rel=1e-4)
    equal = W[:, :1].repeat(1, 3, 1)
    assert prototype_spread(equal, on).item() == pytest.approx(math.sqrt(1e-5) / 2, rel=1e-3)
    assert theirs(equal) < 0.2 * prototype_spread(equal, on).item()


# --- memory


class Largest(TorchDispatchMode):
    """Remembers how many entries the largest tensor had that any operation made."""

    entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = [
            leaf.untyped_storage().nbytes() // leaf.itemsize for leaf in tree_leaves(result) if isinstance(leaf, Tensor)
        ]
        self.entries = max(self.entries, *made, 0)
        return result


def largest(loss: Callable[[], Tensor]) -> int:
    with Largest() as mode:
        loss().backward()
    return mode.entries


def test_no_buffer_joins_all_prototypes_with_all() -> None:
    z, y, W, _ = random_case(0, 8, 40, 5, 6)
    W.requires_grad_()
    on = torch.ones(40, 5, dtype=torch.bool)

    def ours() -> Tensor:
        terms = soft_triple_terms(z, y, W, on)
        return terms.data + terms.spread

    assert largest(ours) <= max(W.numel(), 8 * 40 * 5, 40 * 5 * 5)
    theirs = library_loss(W, spread=True)
    assert largest(lambda: theirs(z, y)) >= (40 * 5) ** 2


# --- merging in numbers a reader can check


def test_merge_weighs_by_mass_and_keeps_the_mean_length() -> None:
    W = torch.tensor([[[2.0, 0.0], [0.0, 4.0]]])
    merged = merge_prototypes(W, torch.ones(1, 2, dtype=torch.bool), torch.tensor([[3.0, 1.0]]), 1.5)
    torch.testing.assert_close(merged.prototypes[0, 0], 3 * torch.tensor([3.0, 1.0]) / math.sqrt(10))
    assert merged.active.tolist() == [[True, False]]
    assert merged.pairs.tolist() == [[0, 0, 1]]


def test_merge_leaves_one_prototype_and_no_pair_of_different_classes() -> None:
    W = torch.ones(3, 4, 5)
    merged = merge_prototypes(W, torch.ones(3, 4, dtype=torch.bool), torch.ones(3, 4), 0.1)
    assert merged.active.sum(1).tolist() == [1, 1, 1]
    assert merge_prototypes(W, merged.active, torch.ones(3, 4), 1.9).pairs.shape == (0, 3)


@settings(max_examples=25)
@given(sizes, st.floats(0.05, 1.5))
def test_after_a_merge_nothing_is_left_to_merge(case: Any, threshold: float) -> None:
    _, _, W, active = random_case(*case)
    mass = torch.ones(W.shape[:2])
    once = merge_prototypes(W, active, mass, threshold)
    assert not len(merge_prototypes(once.prototypes, once.active, mass, threshold).pairs)
    assert (once.active.sum(1) >= 1).all()
    assert torch.equal(count_prototypes(W, active, threshold), once.active.sum(1))
    assert torch.equal(count_prototypes(W, active, 0.0), active.sum(1))


# --- mistakes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embedding": X[:, :2]}, r"embeddings have shape \(4, 2\), expected \(B, 3\)"),
        ({"embedding": X[0]}, r"embeddings have shape \(3,\), expected \(B, 3\)"),
        ({"y": torch.tensor([0, 1, 2, 0])}, r"labels lie in 0\.\.2, expected 0\.\.1 for 2 classes"),
        ({"y": torch.tensor([0, -1, 1, 0])}, r"labels lie in -1\.\.1"),
        ({"y": Y[:3]}, r"4 embeddings came with labels of shape \(3,\)"),
        ({"embedding": X[:0], "y": Y[:0]}, r"0 embeddings .* B > 0"),
        ({"active": torch.tensor([[True, True], [False, False]])}, "no active prototype"),
        ({"active": ALL[:1]}, r"their mask \(1, 2\)"),
        ({"prototypes": W[0]}, r"prototypes have shape \(2, 3\)"),
    ],
)
def test_mistakes_are_told(change: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        soft_triple(**({"embedding": X, "y": Y, "prototypes": W, "active": ALL} | change))


def test_mistakes_in_a_merge_are_told() -> None:
    with pytest.raises(ValueError, match=r"threshold=2 is outside \[0, 2\)"):
        merge_prototypes(W, ALL, torch.ones(2, 2), 2.0)
    with pytest.raises(ValueError, match=r"mass has shape \(2, 3\)"):
        merge_prototypes(W, ALL, torch.ones(2, 3), 0.1)
