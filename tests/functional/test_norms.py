"""Geometry of the balls: properties for any images and radii, and the definitions pixel by pixel in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from protoat.functional.norms import NORMS, Norm

LINF, L2, L1 = (NORMS[name] for name in ("linf", "l2", "l1"))
each_norm = pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS.keys())
norms = st.sampled_from(list(NORMS.values()))
radii = st.one_of(st.floats(0, 1), st.lists(st.floats(0, 1), min_size=3, max_size=3).map(torch.tensor))
seeds = st.integers(0, 2**32)
SLACK = 1e-6
unhurried = settings(max_examples=50)


def images(seed: int, shape: tuple[int, ...] = (3, 2, 3, 3)) -> Tensor:
    """Images with pixels on both ends of the range among them."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).mul(1.4).sub(0.2).clamp(0, 1)


def far(seed: int, shape: tuple[int, ...] = (3, 2, 3, 3)) -> Tensor:
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed + 1))


def rows(eps: float | Tensor) -> list[float]:
    return eps.tolist() if isinstance(eps, Tensor) else [eps] * 3


def within(x_adv: Tensor, x: Tensor, eps: float | Tensor, norm: Norm) -> bool:
    return bool(
        (norm.distance(x_adv, x) <= torch.tensor(rows(eps)) + SLACK).all() and x_adv.min() >= 0 and x_adv.max() <= 1
    )


@unhurried
@given(seeds, radii, norms)
def test_a_projection_is_legal_and_a_legal_image_stays(seed: int, eps: float | Tensor, norm: Norm) -> None:
    x = images(seed)
    once = norm.project(far(seed), x, eps)
    assert within(once, x, eps, norm)
    torch.testing.assert_close(norm.project(once, x, eps), once, atol=SLACK, rtol=0)
    assert torch.equal(norm.project(x, x, eps), x)


@unhurried
@given(seeds, radii)
def test_linf_projection_pixel_by_pixel(seed: int, eps: float | Tensor) -> None:
    x, x_adv = images(seed), far(seed)
    expected = torch.tensor(
        [
            [min(max(a, p - radius, 0.0), p + radius, 1.0) for a, p in zip(adv.tolist(), pixels.tolist(), strict=True)]
            for adv, pixels, radius in zip(x_adv.flatten(1), x.flatten(1), rows(eps), strict=True)
        ]
    ).view_as(x)
    torch.testing.assert_close(LINF.project(x_adv, x, eps), expected, atol=1e-6, rtol=0)


@unhurried
@given(seeds, radii)
def test_l2_projection_shortens_then_cuts(seed: int, eps: float | Tensor) -> None:
    x, x_adv = images(seed), far(seed)
    expected = []
    for adv, pixels, radius in zip(x_adv.flatten(1).tolist(), x.flatten(1).tolist(), rows(eps), strict=True):
        length = math.sqrt(sum((a - p) ** 2 for a, p in zip(adv, pixels, strict=True)))
        share = min(1.0, radius / length)
        expected.append([min(max(p + share * (a - p), 0.0), 1.0) for a, p in zip(adv, pixels, strict=True)])
    torch.testing.assert_close(L2.project(x_adv, x, eps), torch.tensor(expected).view_as(x), atol=1e-5, rtol=0)


@unhurried
@given(seeds, st.floats(0.01, 1))
def test_no_legal_image_is_nearer_than_the_linf_projection(seed: int, eps: float) -> None:
    x, x_adv = images(seed), far(seed)
    other = LINF.random_start(x, eps, torch.Generator().manual_seed(seed))
    assert bool((L2.distance(x_adv, LINF.project(x_adv, x, eps)) <= L2.distance(x_adv, other) + 1e-5).all())


@unhurried
@given(seeds, radii, norms)
def test_starts_are_legal_and_follow_their_generator(seed: int, eps: float | Tensor, norm: Norm) -> None:
    x = images(seed)
    draw: Callable[[int], Tensor] = lambda s: norm.random_start(x, eps, torch.Generator().manual_seed(s))  # noqa: E731
    assert within(draw(seed), x, eps, norm)
    assert torch.equal(draw(seed), draw(seed))
    if max(rows(eps)) > 0.01:
        assert not torch.equal(draw(seed), draw(seed + 1))


def test_linf_starts_fill_the_cube_evenly() -> None:
    delta = LINF.random_start(torch.full((1, 100_000), 0.5), 0.2, torch.Generator().manual_seed(0)) - 0.5
    counts = torch.histc(delta, 10, -0.2, 0.2)
    assert float((counts - 10_000).abs().max()) < 400  # 4 standard deviations are 380


def test_l2_starts_fill_the_ball_evenly() -> None:
    x = torch.full((50_000, 3), 0.5)
    delta = L2.random_start(x, 0.3, torch.Generator().manual_seed(0)) - x
    # In three dimensions the volume inside radius r grows as r ** 3, and every direction is as likely.
    share = (delta.norm(dim=1) / 0.3).pow(3)
    assert float((torch.histc(share, 10, 0, 1) - 5_000).abs().max()) < 270
    assert float(delta.mean(0).abs().max()) < 4 * 0.3 / math.sqrt(5 * 50_000)


@unhurried
@given(seeds, st.floats(0.001, 2), norms)
def test_a_step_has_its_length_and_no_other_of_that_length_climbs_higher(seed: int, size: float, norm: Norm) -> None:
    slope = far(seed)
    step = norm.step(slope, size)
    torch.testing.assert_close(norm.distance(step, torch.zeros_like(step)), torch.full((3,), size), rtol=1e-5, atol=0)
    other = norm.step(far(seed + 1), size)
    assert bool(((slope * step).flatten(1).sum(1) >= (slope * other).flatten(1).sum(1)).all())


@each_norm
def test_each_image_has_its_own_step_size(norm: Norm) -> None:
    slope, sizes = far(0), torch.tensor([0.1, 0.2, 0.3])
    torch.testing.assert_close(norm.distance(norm.step(slope, sizes), torch.zeros_like(slope)), sizes)


@each_norm
def test_no_slope_is_no_step(norm: Norm) -> None:
    assert torch.equal(norm.step(torch.zeros(2, 5), 0.1), torch.zeros(2, 5))


@each_norm
@pytest.mark.parametrize("size", [1e-14, 1e-30, 1e30])
def test_slopes_whose_squares_vanish_or_overflow_give_whole_steps(size: float, norm: Norm) -> None:
    slope = torch.tensor([[3.0, -4.0], [0.0, 1.0]])
    torch.testing.assert_close(norm.step(slope * size, 0.5), norm.step(slope, 0.5))


@each_norm
def test_any_shape_of_example(norm: Norm) -> None:
    for shape in [(3, 7), (3, 1, 8, 8), (3, 2, 2, 2, 2)]:
        x = images(0, shape)
        assert within(
            norm.project(far(0, shape), x, torch.tensor([0.0, 0.1, 0.5])),
            x,
            torch.tensor([0.0, 0.1, 0.5]),
            norm,
        )


@each_norm
def test_memory_format_changes_no_start(norm: Norm) -> None:
    x = images(0, (3, 4, 5, 5))
    starts = [
        norm.random_start(x.contiguous(memory_format=layout), 0.1, torch.Generator().manual_seed(0))
        for layout in (torch.contiguous_format, torch.channels_last)
    ]
    torch.testing.assert_close(starts[1], starts[0])
    assert starts[1].is_contiguous(memory_format=torch.channels_last)


@each_norm
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_images_keep_their_type_and_small_slopes_their_direction(dtype: torch.dtype, norm: Norm) -> None:
    x = images(0).to(dtype)
    slope = torch.full_like(x, 1e-5)
    step = norm.step(slope, 0.1)
    assert step.dtype == norm.project(x + step, x, 0.05).dtype == norm.random_start(x, 0.1).dtype == dtype
    length = 0.1 / norm.across(x[0].numel())
    torch.testing.assert_close(step, torch.full_like(x, length), rtol=1e-2, atol=0)
