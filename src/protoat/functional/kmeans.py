"""Centres of the images of each class, found by k-means."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from threadpoolctl import threadpool_limits
from torch import Tensor

__all__ = ["class_centres"]


def class_centres(embedding: Tensor, y: Tensor, counts: Sequence[int], *, seed: int = 0) -> list[Tensor]:
    """Unit vectors at the centres of the directions of each class, (K_c, D) each, the one with most images first.

    Args:
        embedding: (M, D); directions count.
        y: (M,) int64 labels.
        counts: how many centres each class is to have; one with fewer distinct images has fewer.
        seed: of the starts of k-means.

    Source: k-means++ and Lloyd's algorithm by scikit-learn, the best of four starts.

    >>> z, y = torch.eye(4)[[0, 0, 1, 2, 3, 3]], torch.tensor([0, 0, 0, 1, 1, 1])
    >>> [centres.abs().round().argmax(1).tolist() for centres in class_centres(z, y, [2, 2])]
    [[0, 1], [3, 2]]
    """
    from sklearn.cluster import KMeans  # slow to import

    points, labels = F.normalize(embedding.detach().double(), dim=1).cpu(), y.cpu()
    found = []
    for number, wanted in enumerate(counts):
        own = points[labels == number]
        count = min(wanted, len(own.unique(dim=0)))
        if not count:
            found.append(embedding.new_empty(0, embedding.shape[1]))
            continue
        with threadpool_limits(1):  # several threads add up in an order of their own
            made = KMeans(count, n_init=4, random_state=seed).fit(own.numpy())
        order = torch.from_numpy(made.labels_).long().bincount(minlength=count).argsort(descending=True, stable=True)
        centres = F.normalize(torch.from_numpy(made.cluster_centers_)[order], dim=1)
        found.append(centres.to(embedding.device, embedding.dtype))
    return found
