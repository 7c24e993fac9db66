"""Square: its schedule, its proposals, its search."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from protoat.attacks import AutoAttack, Square
from protoat.attacks.problem import Problem
from protoat.attacks.square import _recolour, _stripes
from protoat.attacks.square_bumps import _bump, move_budget, tile
from protoat.functional.norms import norm_of
from protoat.threats import L1, L2, Linf, ThreatModel
from protoat.types import Output
from tests.contracts.parts import Logits


def problem(x: Tensor, eps: float) -> Problem:
    labels = torch.zeros(len(x), dtype=torch.int64)
    return Problem(lambda images: Output(images, images), x, labels, None, eps, torch.Generator().manual_seed(0))


def share(query: int, queries: int, *, rescale: bool, p_init: float = 0.8) -> float:
    """What a square covers, as the authors' published schedule has it: a table over 10,000 queries."""
    at = int(query / queries * 10000) if rescale else query
    table = ((10, 1), (50, 2), (200, 4), (500, 8), (1000, 16), (2000, 32), (4000, 64), (6000, 128), (8000, 256))
    return p_init / next((part for last, part in table if at <= last), 512)


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("queries", [7, 100, 250, 999, 5000, 10_000, 20_000])
def test_schedule_is_the_authors(queries: int, rescale: bool) -> None:
    ours = Square(Linf(0.1), queries=queries, rescale_schedule=rescale)
    for query in range(1, queries, max(queries // 997, 1)):
        expected = max(round((share(query, queries, rescale=rescale) * 784) ** 0.5), 1)
        assert ours.side(query, 28, 28) == expected, query


@pytest.mark.parametrize("rescale", [False, True])
def test_schedule_is_autoattack_s(rescale: bool) -> None:
    theirs = pytest.importorskip("pyautoattack.square")
    for queries in (250, 5000):
        other = theirs.SquareAttack(nn.Identity(), eps=0.1, n_queries=queries, resc_schedule=rescale)
        ours = Square(Linf(0.1), queries=queries, rescale_schedule=rescale)
        for query in range(1, queries, 3):
            assert ours.side(query, 28, 28) == max(round((other.p_selection(query) * 784) ** 0.5), 1)


def sides(attack: Square, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sides that one run of an attack asks for, on a model that nothing fools."""
    asked: list[int] = []

    def proposal(problem: Problem, x_adv: Tensor, side: int, draw: list[float]) -> tuple[Tensor, Tensor]:
        asked.append(side)
        return torch.arange(0), x_adv[:0]

    monkeypatch.setattr("protoat.attacks.square._recolour", proposal)
    case = problem(torch.full((1, 1, 28, 28), 0.5), attack.threat.eps)
    attack.run(case._replace(model=lambda images: Output(torch.tensor([[1.0, 0.0]]).expand(len(images), 2), images)))
    return asked


def test_a_short_search_ends_with_small_squares_and_autoattack_s_does_not_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    standard = [max(round((share(query, 5000, rescale=False) * 784) ** 0.5), 1) for query in range(1, 5001)]
    assert sides(AutoAttack(Linf(0.1)).parts(10)["square"], monkeypatch) == standard
    assert sides(AutoAttack(Linf(0.1)).parts(2)["square"], monkeypatch) == standard
    short = [max(round((share(query, 250, rescale=True) * 784) ** 0.5), 1) for query in range(1, 251)]
    assert sides(Square(Linf(0.1), queries=250), monkeypatch) == short
    assert (standard[249], short[249]) == (9, 1)


@pytest.mark.parametrize(("threat", "queries"), [(Linf(0.15), 250), (Linf(0.15), 100)])
def test_few_queries_find_more_with_the_schedule_rescaled(
    digits: Callable[..., Any], threat: ThreatModel, queries: int
) -> None:
    model, x, y = digits(count=100)
    left = {
        rescale: sum(
            int(Square(threat, queries=queries, rescale_schedule=rescale, seed=seed)(model, x, y).correct.sum())
            for seed in range(3)
        )
        for rescale in (False, True)
    }
    assert left[True] < left[False] - 5


@pytest.mark.parametrize("side", [2, 3, 5, 8])
@pytest.mark.parametrize("norm", ["L2", "L1"])
def test_bump_is_autoattack_s(side: int, norm: str) -> None:
    theirs = pytest.importorskip("pyautoattack.square")
    other = theirs.SquareAttack(nn.Identity(), norm=norm, eps=0.1, device="cpu")
    bump, shape = _bump(side, norm_of(norm.lower()).order), other.eta(side)
    assert torch.allclose(bump, shape) or torch.allclose(bump.T, shape)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_linf_query_recolours_a_square_and_returns_what_changed(channels: int) -> None:
    case = problem(torch.rand(50, channels, 6, 6).round(decimals=1), 0.2)
    start = _stripes(case)
    low, high = (case.x - 0.2).clamp(0, 1), (case.x + 0.2).clamp(0, 1)
    assert bool(((start == low) | (start == high)).all())
    assert torch.equal((start == low)[:, :, :1].expand_as(start), start == low)
    for side, place in ((1, [0.0, 0.99, 0, 0, 0]), (2, [0.5, 0.2, 0, 0, 0]), (6, [0.9, 0.9, 0, 0, 0])):
        moved, new = _recolour(case, start, side, place)
        assert bool(((new == low[moved]) | (new == high[moved])).all())
        changed = new != start[moved]
        assert bool(changed.flatten(1).any(1).all())
        top, left = (int(share * (7 - side)) for share in place[:2])
        square = (slice(None), slice(None), slice(top, top + side), slice(left, left + side))
        coloured = (new == high[moved])[square].flatten(2)
        assert torch.equal(coloured.all(2), coloured.any(2))  # one end for each channel
        changed[square] = False
        assert not bool(changed.any())
        idle = 0.5**channels if side == 1 else 0.1  # a pixel is set to what it was half of the time
        assert len(moved) == pytest.approx(50 * (1 - idle), abs=11)


@pytest.mark.parametrize("size", [2, 4, 8, 11])
def test_an_l2_query_spends_the_whole_budget(size: int) -> None:
    x = torch.full((20, 2, size, size), 0.5)  # far from the faces of the box
    case = problem(x, 0.3)
    start = tile(case, norm_of("l2"))
    torch.testing.assert_close(norm_of("l2").distance(start, x), torch.full((20,), 0.3))
    for place in ([0.1, 0.2, 0.7, 0.9, 0.1], [0.5, 0.5, 0.4, 0.6, 0.9]):
        moved, new = move_budget(case, start, 3, place, norm_of("l2"))
        assert moved.tolist() == list(range(20))
        torch.testing.assert_close(norm_of("l2").distance(new, x), torch.full((20,), 0.3))
        assert not torch.equal(new, start)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("eps", [0.5, 4.0, 60.0])
def test_an_l1_query_stays_between_black_and_white_and_inside_the_ball(channels: int, eps: float) -> None:
    norm, x = norm_of("l1"), torch.rand(20, channels, 8, 8).round(decimals=1)
    case = problem(x, eps)
    start = tile(case, norm)
    for place in ([0.1, 0.2, 0.7, 0.9, 0.1], [0.5, 0.5, 0.4, 0.6, 0.9], [0.3, 0.9, 0.0, 0.1, 0.6]):
        moved, new = move_budget(case, start, 3, place, norm)
        assert moved.tolist() == list(range(20)) and not torch.equal(new, start)
        for images in (start, new):
            assert images.min() >= 0 and images.max() <= 1 and bool((norm.distance(images, x) <= eps).all())
            assert eps > 5 or bool((norm.distance(images, x) > 0.7 * eps).all())


@pytest.mark.parametrize("threat", [Linf(0.15), L2(0.9), L1(3)])
def test_more_queries_find_more(digits: Callable[..., Any], threat: ThreatModel) -> None:
    model, x, y = digits(count=100)
    few, many = (Square(threat, queries=queries)(model, x, y).correct.sum() for queries in (1, 200))
    assert many < few - 5


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize(("threat", "norm"), [(Linf(0.15), "Linf"), (L2(0.8), "L2"), (L1(3), "L1")])
def test_autoattack_s_own_finds_no_more(
    digits: Callable[..., Any], threat: ThreatModel, norm: str, rescale: bool
) -> None:
    theirs = pytest.importorskip("pyautoattack.square")
    model, x, y = digits(count=100)
    options = {"n_queries": 300, "seed": 0, "resc_schedule": rescale}
    other = theirs.SquareAttack(Logits(model), norm=norm, eps=threat.eps, **options)
    with torch.no_grad():
        left = (model(other.perturb(x, y)).logits.argmax(1) == y).sum()
    ours = Square(threat, queries=300, rescale_schedule=rescale)
    assert ours(model, x, y).correct.sum() <= left + 2


def test_no_gradient_is_asked_for(digits: Callable[..., Any]) -> None:
    model, x, y = digits(count=4)
    graphs = []
    handle = model.register_forward_hook(lambda *args: graphs.append(args[-1].logits.requires_grad))
    Square(Linf(0.1), queries=3).perturb(model, x, y)
    handle.remove()
    assert graphs == [False] * 8  # two looks at the model, clean images, start, three queries, judgement


def test_targets_are_reached(digits: Callable[..., Any]) -> None:
    model, x, y = digits(count=20)
    result = Square(Linf(0.4), queries=300)(model, x, y, targets=(y + 1) % 10)
    assert result.success.float().mean() > 0.7


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="p_init=0 is outside"):
        Square(Linf(0.1), p_init=0)
    with pytest.raises(ValueError, match="queries=0"):
        Square(Linf(0.1), queries=0)
    with pytest.raises(ValueError, match=r"\(B, C, H, W\), got \(2, 5\)"):
        Square(Linf(0.1)).perturb(nn.Linear(5, 2), torch.rand(2, 5), torch.tensor([0, 1]))
