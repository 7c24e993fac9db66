"""The L1 ball against quadratic and linear programs, slow searches in float64, and other libraries."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from protoat.functional.l1 import largest_signs, spend
from protoat.functional.norms import NORMS

L1 = NORMS["l1"]
unhurried = settings(max_examples=50)
seeds = st.integers(0, 10**6)


def case(seed: int, pixels: int = 12, batch: int = 5) -> tuple[Tensor, Tensor]:
    """Images with black and white pixels among them, and points around them."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.rand(batch, pixels, generator=draw, dtype=torch.float64)
    x[:, ::3] = x[:, ::3].round()
    return x, x + torch.randn(x.shape, generator=draw, dtype=torch.float64)


def nearest(point: list[float], x: list[float], eps: float, low: float, high: float) -> list[float]:
    """The projection of one image, from the optimality conditions: bisection on the multiplier of the ball."""

    def shrunk(shift: float) -> list[float]:
        moves = [p - c for p, c in zip(point, x, strict=True)]
        shorter = [(1 if m > 0 else -1) * max(abs(m) - shift, 0.0) for m in moves]
        return [min(max(c + m, low), high) for c, m in zip(x, shorter, strict=True)]

    def length(image: list[float]) -> float:
        return sum(abs(a - c) for a, c in zip(image, x, strict=True))

    if length(shrunk(0.0)) <= eps:
        return shrunk(0.0)
    below, above = 0.0, 10.0
    for _ in range(100):
        middle = (below + above) / 2
        below, above = (middle, above) if length(shrunk(middle)) > eps else (below, middle)
    return shrunk(above)


@unhurried
@given(seeds, st.floats(0.01, 6))
def test_projection_onto_ball_and_box_meets_the_optimality_conditions(seed: int, eps: float) -> None:
    x, point = case(seed)
    expected = [nearest(p, c, eps, 0.0, 1.0) for p, c in zip(point.tolist(), x.tolist(), strict=True)]
    torch.testing.assert_close(L1.project(point, x, eps), torch.tensor(expected, dtype=x.dtype), atol=1e-5, rtol=0)


@unhurried
@given(seeds, st.floats(0.01, 6))
def test_the_ball_alone_meets_the_optimality_conditions(seed: int, eps: float) -> None:
    _, delta = case(seed)
    zero = [0.0] * delta.shape[1]
    expected = [nearest(row, zero, eps, -torch.inf, torch.inf) for row in delta.tolist()]
    torch.testing.assert_close(L1.into_ball(delta, eps), torch.tensor(expected, dtype=delta.dtype), atol=1e-5, rtol=0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("eps", [0.3, 1.5])
def test_projection_is_the_optimum_of_the_quadratic_program(seed: int, eps: float) -> None:
    """With ups and downs as variables of their own the ball is one linear bound; a general solver knows no more."""
    x, point = case(seed, pixels=6, batch=3)
    for image, target, found in zip(x, point, L1.project(point, x, eps), strict=True):
        x0, y0, size = image.numpy(), target.numpy(), len(image)
        solved = minimize(
            lambda move, x0=x0, y0=y0, size=size: float(((x0 + move[:size] - move[size:] - y0) ** 2).sum()),
            np.zeros(2 * size),
            method="SLSQP",
            bounds=[(0, 1 - v) for v in x0] + [(0, v) for v in x0],
            constraints={"type": "ineq", "fun": lambda move: eps - move.sum()},
            options={"maxiter": 500, "ftol": 1e-12},
        )
        assert float((found - target).square().sum()) == pytest.approx(solved.fun, abs=1e-4)


@unhurried
@given(seeds, st.floats(0.01, 3))
def test_no_legal_image_is_nearer(seed: int, eps: float) -> None:
    x, point = case(seed)
    found = L1.project(point, x, eps)
    for other in (L1.random_start(x, eps), L1.corner(x, eps), (x + L1.into_ball(point - x, eps)).clamp(0, 1)):
        assert bool(((found - point).norm(dim=1) <= (other - point).norm(dim=1) + 1e-5).all())


def test_many_pixels_stay_inside_the_ball_whatever_their_rounding() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(8, 3, 32, 32, generator=draw)
    for radius in (0.5, 12.0, 200.0):
        for levels in (x, (255 * x).round() / 255, x.round(decimals=1)):
            for point in (levels + torch.randn(x.shape, generator=draw), levels + 0.1, levels - 0.3):
                x_adv = L1.project(point, levels, radius)
                length = (x_adv.double() - levels.double()).abs().flatten(1).sum(1)
                assert bool((L1.distance(x_adv, levels) <= radius).all())
                assert bool((length <= radius * (1 + 2e-6)).all())
                assert bool((length >= min(radius, 300) * (1 - 1e-3)).all())


def test_other_libraries_project_alike() -> None:
    theirs = pytest.importorskip("pyautoattack.autopgd_base")
    adv_lib = pytest.importorskip("adv_lib.utils.projections")
    x, point = (value.float() for value in case(3, pixels=300, batch=16))
    for eps in (0.5, 5.0, 40.0):
        ours = L1.project(point, x, eps)
        torch.testing.assert_close(ours, point + theirs.L1_projection(x, point - x, eps), atol=2e-4, rtol=0)
        ball = adv_lib.l1_ball_euclidean_projection(point - x, eps)
        torch.testing.assert_close(L1.into_ball(point - x, eps), ball, atol=2e-4, rtol=0)


def test_a_step_is_foolbox_s() -> None:
    foolbox = pytest.importorskip("foolbox")
    import eagerpy as ep

    attack = foolbox.attacks.SparseL1DescentAttack(quantile=0.99)
    for pixels in (64, 300, 3072):
        x, slope = (value.float() for value in case(pixels, pixels=pixels, batch=8))
        theirs = attack.normalize(ep.astensor(slope), x=ep.astensor(x), bounds=foolbox.types.Bounds(0, 1)).raw
        torch.testing.assert_close(L1.step(slope, 0.7, x), 0.7 * theirs)


def test_a_long_step_moves_as_many_pixels_as_it_needs() -> None:
    x, slope = torch.full((2, 20), 0.5), torch.arange(20.0).sub(9.5).expand(2, 20)
    assert (L1.step(slope, torch.tensor([0.3, 4.2])) != 0).sum(1).tolist() == [2, 6]  # of each size there are two
    assert (L1.step(slope, 99.0, x) != 0).sum(1).tolist() == [20, 20]


def test_pixels_at_their_end_take_no_part_in_a_step() -> None:
    x, slope = torch.tensor([[1.0, 0.0, 0.5]]), torch.tensor([[3.0, -2.0, 1.0]])
    assert L1.step(slope, 0.5, x).tolist() == [[0, 0, 0.5]]
    assert L1.step(-slope, 0.5, x).tolist() == [[-0.5, 0, 0]]
    assert L1.steepest(slope, x).tolist() == [[0, 0, 1]]


def test_starts_fill_the_ball_evenly() -> None:
    x = torch.full((60_000, 3), 0.5)
    delta = L1.point_of_ball(x, 0.3, torch.Generator().manual_seed(0)) - x
    length = delta.abs().sum(1)
    assert float((torch.histc((length / 0.3).pow(3), 10, 0, 1) - 6_000).abs().max()) < 300
    # On a sphere of L1 the shares of three pixels are uniform on a triangle: each is below s with 1 - (1 - s) ** 2.
    share = 1 - (1 - delta.abs() / length[:, None]).square()
    for pixel in share.unbind(1):
        assert float((torch.histc(pixel, 10, 0, 1) - 6_000).abs().max()) < 300
    assert float((delta > 0).float().mean(0).sub(0.5).abs().max()) < 0.01


@unhurried
@given(seeds, st.floats(0.1, 5))
def test_a_corner_moves_pixels_to_an_end_and_one_part_of_the_way(seed: int, eps: float) -> None:
    x, _ = case(seed)
    corner = L1.corner(x, eps, torch.Generator().manual_seed(seed))
    moved = corner != x
    between = moved & (corner > 1e-9) & (corner < 1 - 1e-9)
    assert bool((between.sum(1) <= 1).all())
    torch.testing.assert_close(L1.distance(corner, x).clamp_max(eps), L1.distance(corner, x), atol=1e-9, rtol=0)
    full = L1.distance(corner, x) >= eps - 1e-9
    assert bool((full | ~between.any(1)).all())  # what is left over, no pixel could spend
    assert not torch.equal(corner, L1.corner(x, eps, torch.Generator().manual_seed(seed + 1)))


def test_a_budget_is_spent_in_order() -> None:
    order, most = torch.rand(6, 30), torch.rand(6, 30)
    budget = torch.linspace(0, 20, 6)
    moved = spend(order, most, budget)
    torch.testing.assert_close(moved.sum(1), torch.minimum(budget, most.sum(1)))
    for row in range(6):
        ranked = order[row].argsort(descending=True)
        shares = (moved[row] / most[row])[ranked].tolist()
        assert all(first >= 1 - 1e-5 or second == 0 for first, second in pairwise(shares))


def test_as_many_signs_as_wanted() -> None:
    slope = torch.randn(4, 50)
    count = torch.tensor([1, 7, 30, 50])
    signs = largest_signs(slope, count)
    for row in range(4):
        kept = slope[row].abs().argsort(descending=True)[: int(count[row])]
        expected = torch.zeros(50)
        expected[kept] = slope[row].sign()[kept] / int(count[row])
        torch.testing.assert_close(signs[row], expected)
