"""Probabilities of groups of images, and the weights of images that follow from them."""

from __future__ import annotations

import torch
from torch import Tensor


def group_means(values: Tensor, groups: Tensor, sizes: Tensor, images: Tensor | int) -> Tensor:
    """Unbiased estimate of the mean value of each group, (G,), from a batch drawn from all images alike.

    The sum over the batch is divided by the number of images that a group of this size has in such a batch on average,
    not by how many it happens to have, so that rare groups, absent from many batches, count in full when they appear.

    Args:
        values: (B,).
        groups: (B,) group of each, in [0, G).
        sizes: (G,) images of each group in the data; 0 where there are none, whose estimate is 0.
        images: of the whole batch, of which `values` may be one process's part.

    >>> group_means(torch.tensor([1.0, 3.0]), torch.tensor([0, 0]), torch.tensor([10, 10]), 2)
    tensor([4., 0.])
    """
    sums = values.new_zeros(len(sizes)).index_add(0, groups, values)
    expected = images * sizes / sizes.sum()
    return torch.where(sizes > 0, sums / expected.clamp_min(torch.finfo(values.dtype).tiny), 0.0)


def group_probabilities(log_weights: Tensor, sizes: Tensor, mixing: float = 0.0) -> Tensor:
    """``(1 - mixing) softmax(log_weights) + mixing / G`` over the G groups that have images; 0 for all others.

    Args:
        log_weights: (G,).
        sizes: (G,) images of each group in the data.
        mixing: share of the uniform distribution, in [0, 1].

    >>> group_probabilities(torch.tensor([0.0, 0.0, 9.0]), torch.tensor([5, 1, 0]))
    tensor([0.5000, 0.5000, 0.0000])
    """
    present = sizes > 0
    focused = log_weights.masked_fill(~present, float("-inf")).softmax(0)
    return (1 - mixing) * focused + mixing * present / present.sum()


def image_weights(probabilities: Tensor, sizes: Tensor, groups: Tensor) -> Tensor:
    """Weight of each image, (B,): probability of its group over the share of that group in the data.

    Over all images the mean weight is 1, and the weighted mean loss is the mean of the groups' own means under
    `probabilities`.

    >>> image_weights(torch.tensor([0.5, 0.5]), torch.tensor([30, 10]), torch.tensor([0, 1]))
    tensor([0.6667, 2.0000])
    """
    return (probabilities * sizes.sum() / sizes.clamp_min(1))[groups]
