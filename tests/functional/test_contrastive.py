"""NT-Xent against loops written from the equation of each paper."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from protoat.functional.contrastive import nt_xent

GOLDEN = torch.tensor([[1, 2, 3], [0, 1, -1], [2, -1, 0.5], [-1, -1, 2]], dtype=torch.float64).view(2, 2, 3)


def loops(groups: Tensor, temperature: float, floor: float = 0.0) -> float:
    """Sum over ordered pairs of groups and over images, with RoCL's `floor` inside ratio and logarithm."""
    count, batch, _ = groups.shape
    rows = [[groups[g, i] / max(float(groups[g, i].norm()), 1e-8) for i in range(batch)] for g in range(count)]
    total = 0.0
    for g in range(count):
        for i in range(batch):
            others = [(h, j) for h in range(count) for j in range(batch) if (h, j) != (g, i)]
            denominator = sum(math.exp(float(rows[g][i] @ rows[h][j]) / temperature) for h, j in others)
            for h in set(range(count)) - {g}:
                positive = math.exp(float(rows[g][i] @ rows[h][i]) / temperature)
                total -= math.log(positive / (denominator + floor) + floor)
    return total / (count * batch)


def test_golden_values_of_both_forms() -> None:
    assert nt_xent(GOLDEN).item() == pytest.approx(1.638598, abs=1e-6)
    assert nt_xent(GOLDEN, detach_keys=True).item() == pytest.approx(1.63859804, abs=2e-7)
    assert loops(GOLDEN, 0.5, floor=1e-8) == pytest.approx(1.63859804, abs=1e-8)


@given(st.integers(2, 3), st.integers(1, 5), st.integers(1, 6), st.floats(0.1, 2), st.integers(0, 1000))
def test_equals_the_loops(groups: int, batch: int, dim: int, temperature: float, seed: int) -> None:
    x = torch.randn(groups, batch, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert nt_xent(x, temperature=temperature).item() == pytest.approx(loops(x, temperature), rel=1e-9, abs=1e-9)


def test_detached_keys_train_a_row_as_anchor_only() -> None:
    """Gradient of the replica = gradient of the loss in which every key is a constant copy."""
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    nt_xent(x, detach_keys=True).backward()

    copy = x.detach().clone().requires_grad_()
    u = torch.nn.functional.normalize(copy.flatten(0, 1), dim=1)
    keys = torch.nn.functional.normalize(x.detach().flatten(0, 1), dim=1)
    loss = torch.zeros((), dtype=torch.float64)
    for a in range(6):
        terms = torch.stack([u[a] @ keys[b] / 0.5 for b in range(6) if b != a])
        loss = loss + terms.logsumexp(0) - u[a] @ keys[(a + 3) % 6] / 0.5
    (loss / 6).backward()
    torch.testing.assert_close(x.grad, copy.grad)

    full = x.detach().clone().requires_grad_()
    nt_xent(full).backward()
    assert not torch.allclose(full.grad, x.grad)


def test_half_precision_is_computed_in_float32() -> None:
    x = torch.randn(2, 8, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert nt_xent(x).dtype == torch.float32
        torch.testing.assert_close(nt_xent(x), nt_xent(x.clone()))
    assert nt_xent(torch.zeros(2, 4, 3)).isfinite()


@pytest.mark.parametrize(("shape", "temperature"), [((1, 4, 3), 0.5), ((4, 3), 0.5), ((2, 4, 3), 0.0)])
def test_bad_input_is_named(shape: tuple[int, ...], temperature: float) -> None:
    with pytest.raises(ValueError, match=r"G >= 2 views|must be positive"):
        nt_xent(torch.rand(shape), temperature=temperature)
