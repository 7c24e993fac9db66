"""Nearest-neighbour retrieval by embedding."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from protoat.errors import UserError
from protoat.evaluation.statistics import interval_of_mean

_AT_ONCE = 1024


def nearest_neighbours(queries: Tensor, gallery: Tensor, k: int, *, excluded: Tensor | None = None) -> Tensor:
    """The `k` images of the gallery with the largest cosine to each query, the nearest first.

    Args:
        queries: (Q, D) embeddings.
        gallery: (N, D) embeddings; of equals, the one that stands first is nearer.
        k: from 1 to N, or to N - 1 where images are excluded.
        excluded: (Q,) int64, the image of the gallery that a query must not find, which is the query itself.

    Returns:
        (Q, k) int64 into the gallery.

    Raises:
        ValueError: a number of neighbours that is not there.

    Deviation: a vector of length zero has cosine 0 with everything.

    >>> nearest_neighbours(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0], [3.0, 1.0], [1.0, 0.0]]), 2)
    tensor([[2, 1]])
    """
    most = len(gallery) - (excluded is not None)
    if not 1 <= k <= most:
        raise UserError(f"k={k} neighbours are asked for, and there are {most} to choose from; write 1 to {most}")
    unit, found = F.normalize(gallery.double(), dim=1), []
    for rows in torch.arange(len(queries)).split(_AT_ONCE):
        cosine = F.normalize(queries[rows].double(), dim=1) @ unit.T
        if excluded is not None:
            cosine.scatter_(1, excluded[rows, None], float("-inf"))
        found.append(cosine.argsort(dim=1, descending=True, stable=True)[:, :k])
    return torch.cat(found)


class Precision(NamedTuple):
    """How many of the retrieved images are of the class of their query.

    Attributes:
        correct, total: retrieved images, of all queries together.
        queries: how many there were.
    """

    correct: int
    total: int
    queries: int

    @property
    def share(self) -> float:
        """Precision at k, in [0, 1], mean over queries."""
        return self.correct / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """A 95 % interval of `share` over queries.

        What one query finds is alike, so retrieved images are no independent draws, and queries are.

        >>> [round(end, 3) for end in Precision(20, 40, queries=10).interval]
        [0.237, 0.763]
        """
        return interval_of_mean(self.share, self.queries)


def precision(found: Tensor, labels: Tensor, gallery_labels: Tensor) -> Precision:
    """Precision at k of retrieved images.

    Args:
        found: (Q, k) int64 into the gallery.
        labels: (Q,) of the queries.
        gallery_labels: (N,).

    >>> precision(torch.tensor([[0, 1], [1, 2]]), torch.tensor([0, 1]), torch.tensor([0, 1, 1]))
    Precision(correct=3, total=4, queries=2)
    """
    right = gallery_labels[found] == labels[:, None]
    return Precision(int(right.sum()), right.numel(), len(right))
