"""Retrieval by embedding, against slow loops."""

from __future__ import annotations

import math

import pytest
import torch

from protoat.evaluation import Count
from protoat.evaluation import retrieval as module
from protoat.evaluation.retrieval import Precision, nearest_neighbours, precision


def slow_neighbours(query: list[float], gallery: list[list[float]], k: int, own: int | None) -> list[int]:
    def cosine(other: list[float]) -> float:
        lengths = math.dist(query, [0.0] * len(query)) * math.dist(other, [0.0] * len(other))
        return sum(a * b for a, b in zip(query, other, strict=True)) / lengths if lengths else 0.0

    others = [place for place in range(len(gallery)) if place != own]
    return sorted(others, key=lambda place: (-cosine(gallery[place]), place))[:k]


@pytest.mark.parametrize("excluding", [False, True])
def test_neighbours_are_those_of_a_loop(excluding: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", 7)
    gallery = torch.randn(40, 5, generator=torch.Generator().manual_seed(1))
    queries = gallery[:20] + 0.3 * torch.randn(20, 5, generator=torch.Generator().manual_seed(2))
    own = torch.arange(20) if excluding else None
    found = nearest_neighbours(queries, gallery, 6, excluded=own)
    for place in range(20):
        expected = slow_neighbours(queries[place].tolist(), gallery.tolist(), 6, place if excluding else None)
        assert found[place].tolist() == expected


def test_a_query_never_finds_itself_even_among_equals() -> None:
    gallery = torch.ones(4, 3)
    found = nearest_neighbours(gallery, gallery, 3, excluded=torch.arange(4))
    assert [sorted(row) for row in found.tolist()] == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]


@pytest.mark.parametrize(("k", "excluded"), [(0, None), (5, None), (4, torch.arange(4))])
def test_more_neighbours_than_there_are_is_refused(k: int, excluded: torch.Tensor | None) -> None:
    with pytest.raises(ValueError, match=f"k={k} neighbours are asked for, and there are"):
        nearest_neighbours(torch.ones(4, 2), torch.ones(4, 2), k, excluded=excluded)


def test_precision_is_a_mean_over_queries() -> None:
    gallery_labels = torch.tensor([0, 0, 1, 1, 2])
    found = torch.tensor([[0, 1], [2, 4], [3, 0]])
    labels = torch.tensor([0, 1, 2])
    shares = [2 / 2, 1 / 2, 0 / 2]
    assert precision(found, labels, gallery_labels).share == pytest.approx(sum(shares) / 3)


def test_the_interval_is_wilsons_where_a_query_is_all_right_or_all_wrong() -> None:
    assert Precision(4 * 62, 400, queries=100).interval == Count(62, 100).interval
    low, high = Precision(4 * 62 + 1, 400, queries=100).interval
    assert (low, high) == (Count(62, 100).interval[0], Count(63, 100).interval[1])


def test_the_interval_covers_what_resampling_queries_gives() -> None:
    right = torch.rand(200, 4, generator=torch.Generator().manual_seed(0)) < 0.7
    low, high = Precision(int(right.sum()), right.numel(), queries=200).interval
    draws = torch.randint(200, (2000, 200), generator=torch.Generator().manual_seed(1))
    means = right.double().mean(1)[draws].mean(1)
    assert low < float(means.quantile(0.025)) and float(means.quantile(0.975)) < high
