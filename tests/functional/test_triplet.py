"""Triplet maths against loops in float64 and the published golden values."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from protoat.functional.triplet import cosine_distance, hardest_negative, other_of_class, triplet_hinge

X = torch.tensor([[1.0, 2, 3], [0, 1, -1], [2, -1, 0.5], [-1, -1, 2]])


def slow_cosine(u: list[float], v: list[float]) -> float:
    dot = sum(a * b for a, b in zip(u, v, strict=True))
    return dot / math.sqrt(sum(a * a for a in u)) / math.sqrt(sum(b * b for b in v))


def slow_hinge(a: Tensor, p: Tensor, n: Tensor, margin: float, absolute: bool) -> float:
    total = 0.0
    for u, v, w in zip(a.double().tolist(), p.double().tolist(), n.double().tolist(), strict=True):
        near, far = slow_cosine(u, v), slow_cosine(u, w)
        if absolute:
            near, far = abs(near), abs(far)
        total += max(0.0, (1 - near) - (1 - far) + margin)
    return total / len(a)


def test_golden_values_of_tla() -> None:
    a, p, n = X[0:1], X[2:3], X[1:2]
    assert cosine_distance(a, p).item() == pytest.approx(0.8250364, abs=1e-6)
    assert cosine_distance(a, n, absolute=True).item() == pytest.approx(0.8110178, abs=1e-6)
    assert cosine_distance(a, n).item() == pytest.approx(1.188982, abs=1e-6)
    assert triplet_hinge(a, p, n, margin=0.03, absolute=True).item() == pytest.approx(0.0440187, abs=1e-6)
    assert triplet_hinge(a, p, n, margin=0.03).item() == 0


@pytest.mark.parametrize("absolute", [False, True])
@given(seed=st.integers(0, 10_000), margin=st.floats(0, 1.5), scale=st.floats(1e-3, 1e3))
def test_hinge_is_the_equation_and_ignores_lengths(absolute: bool, seed: int, margin: float, scale: float) -> None:
    a, p, n = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(seed))
    expected = slow_hinge(a, p, n, margin, absolute)
    assert triplet_hinge(a, p * scale, n, margin=margin, absolute=absolute).item() == pytest.approx(expected, abs=2e-6)


def test_hinge_runs_in_float32() -> None:
    a, p, n = torch.randn(3, 4, 8)
    half = triplet_hinge(a.bfloat16(), p.bfloat16(), n.bfloat16(), margin=0.5)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(
        slow_hinge(a.bfloat16(), p.bfloat16(), n.bfloat16(), 0.5, absolute=False), abs=1e-6
    )


@given(seed=st.integers(0, 10_000))
def test_hardest_negative_is_the_nearest_of_another_class(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    anchor, candidates = torch.randn(5, 4, generator=g), torch.randn(12, 4, generator=g)
    y, y_candidates = torch.randint(0, 3, (5,), generator=g), torch.arange(12) % 3
    found = hardest_negative(anchor, candidates, y, y_candidates)
    for i in range(5):
        allowed = [j for j in range(12) if y_candidates[j] != y[i]]
        best = max(allowed, key=lambda j: slow_cosine(anchor[i].tolist(), candidates[j].tolist()))
        assert found[i] == best


def test_hardest_negative_where_all_similarities_are_negative() -> None:
    """Candidates of the same class scored 0, as in the authors' code, would win here."""
    anchor, candidates = torch.tensor([[1.0, 0]]), torch.tensor([[1.0, 0], [-1, 1], [-1, 0]])
    assert hardest_negative(anchor, candidates, torch.tensor([0]), torch.tensor([0, 1, 1])).tolist() == [1]


def test_hardest_negative_in_bf16_autocast_keeps_float32_order() -> None:
    candidates = torch.tensor([[1.0, 0.0], [1.0, 0.001], [1.0, 0.002]])
    with torch.autocast("cpu", torch.bfloat16):
        found = hardest_negative(torch.tensor([[1.0, 0.0011]]), candidates, torch.tensor([1]), torch.zeros(3).long())
    assert found.item() == 1


def test_one_class_is_refused() -> None:
    y = torch.tensor([3, 3])
    with pytest.raises(
        ValueError, match=r"images of class 3 have no candidate of another class among 2; .*two classes"
    ):
        hardest_negative(X[:2], X[:2], y, y)


def test_positive_is_another_image_of_the_class_or_itself() -> None:
    y_candidates = torch.tensor([0, 1, 2, 0, 1, 0])
    itself = torch.tensor([2, 3, 4, 5])
    y = y_candidates[itself]
    seen: list[set[int]] = [set() for _ in y]
    for _ in range(100):
        for i, j in enumerate(other_of_class(y, y_candidates, itself).tolist()):
            seen[i].add(j)
    assert seen == [{2}, {0, 5}, {1}, {0, 3}]


def test_no_precision_is_lost_in_float64() -> None:
    u = torch.tensor([[1.0, 1e-9]], dtype=torch.float64)
    v = torch.tensor([[1e-9, 1.0]], dtype=torch.float64)
    assert cosine_distance(u, v).item() == pytest.approx(1 - 2e-9, abs=1e-15)
    assert cosine_distance(u.bfloat16(), v.bfloat16()).dtype == torch.float32
