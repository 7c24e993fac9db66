"""Balanced assignment, against rows and columns divided one by one, and against the assignment problem."""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from protoat.functional.sinkhorn import sinkhorn


def scores(examples: int, clusters: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(examples, clusters, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_divides_columns_and_rows_in_turn() -> None:
    given = scores(6, 3)
    share = (given / 0.2).exp().tolist()
    for _ in range(4):
        for column in range(3):
            total = sum(row[column] for row in share)
            for row in share:
                row[column] *= 2 / total
        share = [[value / sum(row) for value in row] for row in share]
    torch.testing.assert_close(sinkhorn(given, epsilon=0.2, iterations=4), torch.tensor(share, dtype=torch.float64))


def test_shares_are_balanced() -> None:
    found = sinkhorn(scores(40, 5), epsilon=0.05)
    torch.testing.assert_close(found.sum(1), torch.ones(40, dtype=torch.float64))
    torch.testing.assert_close(found.sum(0), torch.full((5,), 8.0, dtype=torch.float64), rtol=1e-3, atol=0)


@pytest.mark.parametrize("seed", range(3))
def test_without_entropy_is_the_best_balanced_assignment(seed: int) -> None:
    given = scores(12, 3, seed)
    _, place = linear_sum_assignment(-given.repeat_interleave(4, 1).numpy())  # four places in each cluster
    found = sinkhorn(given, epsilon=0.002, iterations=5000)
    assert torch.bincount(found.argmax(1)).tolist() == [4, 4, 4]
    assert found.argmax(1).tolist() == (place // 4).tolist()


def test_far_scores_and_refusals() -> None:
    assert bool(sinkhorn(torch.tensor([[0.0, -1e4], [0.0, -1e4]])).isfinite().all())
    for wrong, options in ((torch.zeros(0, 2), {}), (torch.zeros(2), {}), (torch.zeros(2, 2), {"epsilon": 0.0})):
        with pytest.raises(ValueError, match=r"expected|must be positive"):
            sinkhorn(wrong, **options)
