"""A network of 3 KB, for runs that are kept beside the tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from protoat import Output


class TinyNetwork(nn.Module):
    """One hidden layer with batch norm; its 8 values are the embedding."""

    def __init__(self, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(in_channels * image_size**2, 8)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Output:
        embedding = torch.relu(self.norm(self.hidden(x.flatten(1))))
        return Output(self.head(embedding), embedding)
