"""Clusters of the embeddings of one class, in an order that earlier clusters give."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from protoat.functional.kmeans import clusters_of_directions
from protoat.functional.partitions import crosstab
from protoat.functional.sinkhorn import sinkhorn

_SEEN = 2000  # images on which the silhouette is measured: it compares all pairs


def clusters_of(
    embedding: Tensor, count: int, *, balanced: bool = False, silhouette: bool = False, seed: int = 0
) -> Tensor:
    """The cluster of each image, (M,) int64 in 0..count-1; the same for the same embeddings on any number of threads.

    Args:
        embedding: (M, D) of one class, of which directions count.
        count: how many clusters; as many as images where there are fewer.
        balanced: give each centre that k-means has found about equally many images: the largest share of each image by
            Sinkhorn's iteration.
        silhouette: take the number from 2 to `count` whose clusters have the highest mean silhouette.
        seed: of the starts of k-means.
    """
    points = F.normalize(embedding.double(), dim=1)
    most = min(count, len(points.unique(dim=0)))
    numbers = range(2, most + 1) if silhouette and most > 2 else [most]
    made = [clusters_of_directions(points, number, seed=seed) for number in numbers]
    if len(made) > 1:
        seen = torch.from_numpy(np.random.default_rng(seed).permutation(len(points))[:_SEEN])
        made.sort(key=lambda each: _silhouette(points[seen].numpy(), each.labels[seen].numpy()), reverse=True)
    found = made[0]
    if not balanced:
        return found.labels
    distance = torch.cdist(points, found.centres).square()
    return sinkhorn(-distance / distance.mean().clamp_min(1e-12)).argmax(1)


def in_places_of(clusters: Tensor, before: Tensor, count: int) -> Tensor:
    """The same clusters under other numbers, so that as many images as possible keep the number they had.

    Args:
        clusters: (M,) int64 in 0..count-1.
        before: (M,) int64, -1 where there was none.
        count: how many numbers there are.

    Source: the assignment problem, by scipy's Hungarian method.

    >>> in_places_of(torch.tensor([0, 0, 1]), torch.tensor([2, 2, -1]), 3)
    tensor([2, 2, 0])
    """
    from scipy.optimize import linear_sum_assignment

    known = before >= 0
    table = crosstab(clusters[known], before[known], (count, count))
    _, place = linear_sum_assignment(-table.numpy())
    return torch.from_numpy(place)[clusters]


def _silhouette(points: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Mean silhouette of points; the least there is where they are of one cluster, or each of its own."""
    from sklearn.metrics import silhouette_score

    return float(silhouette_score(points, labels)) if 1 < len(set(labels.tolist())) < len(points) else -1.0
