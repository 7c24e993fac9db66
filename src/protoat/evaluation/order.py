"""The order in which images are measured: a fixed shuffle, stratified by class and mode."""

from __future__ import annotations

import torch
from torch import Tensor

from protoat.data import ImageData


def fair_order(data: ImageData) -> Tensor:
    """The images in an order of which every beginning holds its share of each mode, to within one image.

    It is always the same for the same modes, so the first hundred images of two measurements are the same images.

    Returns:
        (N,) int64, each index once.

    >>> data = ImageData(torch.zeros(6, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 0, 0, 0, 1, 1]), ("a", "b"))
    >>> data.labels[fair_order(data)[:3]].sum().item()
    1
    """
    return spread(data.modes, len(data.mode_names))


def measured(data: ImageData, images: int) -> Tensor:
    """(images,) int64, the images that a measurement of so many takes, in the order of the data, as records have them.

    >>> data = ImageData(torch.zeros(6, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 0, 0, 0, 1, 1]), ("a", "b"))
    >>> measured(data, 6).tolist()
    [0, 1, 2, 3, 4, 5]
    """
    return fair_order(data)[:images].sort().values


def spread(kinds: Tensor, number: int) -> Tensor:
    """(N,) int64, an order of which every beginning holds its share of each of so many `kinds`, (N,) int64 from 0."""
    generator = torch.Generator().manual_seed(0)
    shuffled = torch.randperm(len(kinds), generator=generator)
    modes = kinds.cpu()[shuffled]
    by_mode = modes.argsort(stable=True)
    counts = torch.bincount(modes, minlength=number)
    start = torch.rand(len(counts), dtype=torch.float64, generator=generator)
    own = modes[by_mode]
    place = torch.arange(len(kinds)) - (counts.cumsum(0) - counts)[own]
    return shuffled[by_mode[((place + start[own]) / counts[own]).argsort(stable=True)]]
