"""Agreement of prototypes with the true modes: purity and NMI."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from protoat.errors import UserError
from protoat.evaluation.statistics import crosstab

__all__ = ["Agreement", "agreement", "assign", "cosines"]


class Agreement(NamedTuple):
    """How well a partition by prototypes agrees with the true modes of one class.

    Attributes:
        nmi: normalised mutual information in [0, 1] (arithmetic mean); 1 where they are the same partition, 0 where
            one says nothing about the other, also where all images are in one part.
        purity: share of images whose mode is the commonest of their prototype. It grows with the number of prototypes.
        chance: what purity is with a single prototype, the share of the commonest mode.
        images, prototypes, modes: how many images, prototypes that any image is nearest to, and modes there are.
    """

    nmi: float
    purity: float
    chance: float
    images: int
    prototypes: int
    modes: int


def cosines(embedding: Tensor, prototypes: Tensor, active: Tensor) -> Tensor:
    """Cosine of each embedding (M, D) to each prototype (C, K, D), (M, C, K); -inf to those that are not active."""
    all_of_them = F.normalize(embedding.float(), dim=1) @ F.normalize(prototypes.float(), dim=2).flatten(0, 1).T
    return all_of_them.view(len(embedding), *active.shape).masked_fill(~active, float("-inf"))


def assign(embedding: Tensor, labels: Tensor, prototypes: Tensor, active: Tensor) -> Tensor:
    """The nearest prototype of its own class for each image, (M,) int64 places in 0..K-1.

    >>> prototypes = torch.eye(2).expand(2, 2, 2)
    >>> assign(torch.tensor([[0.0, 1.0], [3.0, 1.0]]), torch.tensor([0, 1]), prototypes, torch.ones(2, 2) > 0)
    tensor([1, 0])
    """
    return cosines(embedding, prototypes, active)[torch.arange(len(labels)), labels].argmax(1)


def agreement(places: Tensor, modes: Tensor) -> Agreement:
    """Agreement of prototypes and modes over the images of one class.

    Args:
        places: (M,) int64, the prototype of each image; see `assign`.
        modes: (M,) int64, its true mode.

    Raises:
        ValueError: no images.

    >>> agreement(torch.tensor([0, 0, 1, 1]), torch.tensor([7, 7, 8, 9])).purity
    0.75
    """
    from sklearn.metrics import normalized_mutual_info_score  # slow to import

    if not len(modes):
        raise UserError("agreement of prototypes with modes needs images")
    _, mode = modes.unique(return_inverse=True)
    _, place = places.unique(return_inverse=True)
    prototypes, number = int(place.max()) + 1, int(mode.max()) + 1
    table = crosstab(place, mode, (prototypes, number))
    # scikit-learn calls two partitions with a single part equal; they tell nothing about each other.
    alike = prototypes == 1 or number == 1
    nmi = 0.0 if alike else float(normalized_mutual_info_score(mode.numpy(), place.numpy()))
    total = len(modes)
    chance = int(table.sum(0).max()) / total
    return Agreement(nmi, int(table.amax(1).sum()) / total, chance, total, prototypes, number)
