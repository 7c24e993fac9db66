"""K-means on directions: clusters of embeddings, and the centres of each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from threadpoolctl import threadpool_limits
from torch import Tensor

_STARTS = 4  # of which the best counts
_ZERO = 1e-12  # length of a vector without a direction


class Clusters(NamedTuple):
    """Labels (M,) int64 in 0..K-1, and centres (K, D) float64, not normalised."""

    labels: Tensor
    centres: Tensor


def clusters_of_directions(embedding: Tensor, count: int, *, seed: int = 0) -> Clusters:
    """K-means on the directions of embeddings (M, D); the same for the same embeddings on any number of threads.

    Args:
        embedding: of any length and dtype, on the CPU.
        count: how many clusters; as many as distinct directions where there are fewer.
        seed: of the starts.

    Source: k-means++ and Lloyd's algorithm by scikit-learn, the best of four starts.

    >>> clusters_of_directions(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]]), 5).labels.unique().tolist()
    [0, 1]
    """
    from sklearn.cluster import KMeans  # slow to import

    points = F.normalize(embedding.detach().double(), dim=1)
    count = min(count, len(points.unique(dim=0)))
    with threadpool_limits(1):  # several threads add up in an order of their own
        fitted = KMeans(count, n_init=_STARTS, random_state=seed).fit(points.numpy())
    return Clusters(torch.from_numpy(fitted.labels_).long(), torch.from_numpy(fitted.cluster_centers_))


def class_centres(embedding: Tensor, y: Tensor, counts: Sequence[int]) -> list[Tensor]:
    """Unit vectors at the centres of the directions of each class, (K_c, D) each, the one with most images first.

    Args:
        embedding: (M, D); directions count, which one of length zero does not have.
        y: (M,) int64 labels.
        counts: how many centres each class is to have; one with fewer distinct images has fewer.

    >>> z, y = torch.eye(4)[[0, 0, 1, 2, 3, 3]], torch.tensor([0, 0, 0, 1, 1, 1])
    >>> [centres.abs().round().argmax(1).tolist() for centres in class_centres(z, y, [2, 2])]
    [[0, 1], [3, 2]]
    """
    points, labels = embedding.detach().cpu(), y.cpu()
    directed = points.norm(dim=1) > _ZERO
    found = []
    for number, wanted in enumerate(counts):
        own = points[directed & (labels == number)]
        if not wanted or not len(own):
            found.append(embedding.new_empty(0, embedding.shape[1]))
            continue
        made = clusters_of_directions(own, wanted, seed=0)
        order = made.labels.bincount(minlength=len(made.centres)).argsort(descending=True, stable=True)
        found.append(F.normalize(made.centres[order], dim=1).to(embedding.device, embedding.dtype))
    return found
