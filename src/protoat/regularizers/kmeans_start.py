"""A start of prototypes at the centres of each class, found by k-means on the embeddings of a warm-up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from protoat.functional.distributed import mean_over_processes, of_all_processes
from protoat.functional.kmeans import class_centres
from protoat.memory import Memory

_MOST = 20_000  # embeddings that are kept


class KMeansStart(Memory):
    """Keeps the last embeddings of a warm-up, until prototypes start.

    Attributes:
        started: whether they have.
        seen, seen_y: (M, D) and (M,), embeddings and labels that this process has seen; None outside of the warm-up.
    """

    memory: ClassVar[tuple[str, ...]] = ("seen", "seen_y")
    started: Tensor
    seen: Tensor | None
    seen_y: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("started", torch.tensor(False))

    @torch.no_grad()
    def keep(self, embedding: Tensor, y: Tensor) -> None:
        """Adds a batch of embeddings (B, D) with labels (B,)."""
        known = [] if self.seen is None or self.seen_y is None else [(self.seen, self.seen_y)]
        self.seen, self.seen_y = (
            torch.cat(rows)[-_MOST:] for rows in zip(*known, (embedding.detach(), y), strict=True)
        )

    @torch.no_grad()
    def place(self, prototypes: Tensor, counts: Sequence[int]) -> None:
        """Puts prototypes (C, K, D), so many of each class, at the centres of what all processes have seen."""
        self.started.fill_(True)
        if self.seen is None or self.seen_y is None:
            return
        embedding, y = of_all_processes(self.seen), of_all_processes(self.seen_y)
        for number, centres in enumerate(class_centres(embedding, y, counts)):
            prototypes[number, : len(centres)] = centres.to(prototypes.dtype)
        prototypes.copy_(mean_over_processes(prototypes.detach()))  # processors may round differently
        self.seen = self.seen_y = None
