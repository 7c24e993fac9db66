"""The projection of FAB against linear programs, a slow search, and AutoAttack's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from protoat.functional.norms import NORMS, Norm


def problem(seed: int, size: int = 12, batch: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    x = torch.rand(batch, size, generator=draw, dtype=torch.float64)
    x[:, ::3] = x[:, ::3].round()  # black and white pixels
    normal = torch.randn(batch, size, generator=draw, dtype=torch.float64)
    normal[:, 1] = 0
    rise = torch.randn(batch, generator=draw, dtype=torch.float64) * 2
    return x, normal, rise


def reachable(x: torch.Tensor, normal: torch.Tensor, rise: torch.Tensor) -> torch.Tensor:
    most = torch.where(normal > 0, 1 - x, -x).mul(normal).sum(1)
    least = torch.where(normal > 0, -x, 1 - x).mul(normal).sum(1)
    return (rise < most) & (rise > least)


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS.keys())
@given(seed=st.integers(0, 10**6))
@settings(max_examples=50)
def test_lands_on_the_plane_inside_the_box_or_uses_the_whole_box(norm: Norm, seed: int) -> None:
    x, normal, rise = problem(seed)
    step = norm.onto_plane(x, normal, rise)
    assert bool(((x + step >= -1e-12) & (x + step <= 1 + 1e-12)).all())
    can = reachable(x, normal, rise)
    moved = (normal * step).sum(1)
    torch.testing.assert_close(moved[can], rise[can], rtol=1e-4, atol=1e-9)
    for row in (~can).nonzero().flatten():
        toward = normal[row] * rise[row].sign()
        corner = torch.where(toward > 0, 1 - x[row], -x[row]) * (toward != 0)
        torch.testing.assert_close(step[row], corner)


@pytest.mark.parametrize("seed", range(5))
def test_linf_step_is_the_optimum_of_the_linear_program(seed: int) -> None:
    x, normal, rise = problem(seed)
    steps = NORMS["linf"].onto_plane(x, normal, rise)
    for row in reachable(x, normal, rise).nonzero().flatten():
        size = x.shape[1]
        eye, ones = np.eye(size), np.ones((size, 1))
        best = linprog(
            [0] * size + [1],
            A_ub=np.block([[eye, -ones], [-eye, -ones]]),
            b_ub=np.zeros(2 * size),
            A_eq=np.append(normal[row].numpy(), 0)[None],
            b_eq=[rise[row].item()],
            bounds=[(-float(v), 1 - float(v)) for v in x[row]] + [(0, None)],
        )
        assert steps[row].abs().max().item() == pytest.approx(best.fun, rel=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_l1_step_is_the_optimum_of_the_linear_program(seed: int) -> None:
    x, normal, rise = problem(seed)
    steps = NORMS["l1"].onto_plane(x, normal, rise)
    for row in reachable(x, normal, rise).nonzero().flatten():
        w = normal[row].numpy()
        ends = [(0, 1 - float(v)) for v in x[row]] + [(0, float(v)) for v in x[row]]
        best = linprog(np.ones(2 * len(w)), A_eq=np.append(w, -w)[None], b_eq=[rise[row].item()], bounds=ends)
        assert steps[row].abs().sum().item() == pytest.approx(best.fun, rel=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_l2_step_is_the_clipped_normal_of_a_slow_bisection(seed: int) -> None:
    """KKT: the nearest point is clip(x + t * normal) for the t that puts it on the plane."""
    x, normal, rise = problem(seed)
    steps = NORMS["l2"].onto_plane(x, normal, rise)
    for row in reachable(x, normal, rise).nonzero().flatten():
        low, high = -1e4, 1e4
        for _ in range(200):
            middle = (low + high) / 2
            point = (x[row] + middle * normal[row]).clamp(0, 1)
            low, high = (middle, high) if (normal[row] * (point - x[row])).sum() < rise[row] else (low, middle)
        torch.testing.assert_close(steps[row], point - x[row], rtol=1e-3, atol=1e-5)


def test_no_normal_and_no_room_give_no_step_and_no_nan() -> None:
    x = torch.tensor([[0.0, 1.0], [0.3, 0.6]])
    normal = torch.tensor([[-1.0, 1.0], [0.0, 0.0]])
    for norm in NORMS.values():
        assert norm.onto_plane(x, normal, torch.tensor([1.0, 1.0])).tolist() == [[0, 0], [0, 0]]


def test_autoattack_projection_agrees() -> None:
    theirs = pytest.importorskip("pyautoattack.fab_projections")
    x, normal, rise = (value.float() for value in problem(7, size=40, batch=32))
    offset = (normal * x).sum(1) + rise
    keep = reachable(x, normal, rise)
    for name, other in (("linf", theirs.projection_linf), ("l1", theirs.projection_l1)):
        ours = NORMS[name].onto_plane(x, normal, rise)
        torch.testing.assert_close(ours[keep], other(x, normal, offset)[keep], rtol=1e-3, atol=1e-4)
