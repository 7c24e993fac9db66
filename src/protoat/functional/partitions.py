"""Contingency table, NMI and purity of two partitions of the same images."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from protoat.errors import UserError


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


def crosstab(rows: Tensor, columns: Tensor, shape: tuple[int, int]) -> Tensor:
    """How many images are in each row and column, int64 of `shape`.

    Args:
        rows, columns: (M,) int64, where each image is.
        shape: how many rows and columns there are.

    >>> crosstab(torch.tensor([0, 0, 1]), torch.tensor([2, 2, 0]), (2, 3))
    tensor([[0, 0, 2],
            [1, 0, 0]])
    """
    return torch.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1]).view(shape)
