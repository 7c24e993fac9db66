"""A classification head with several prototypes per class."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from protoat.arguments import check_choice, check_number, check_whole, counts_per_class
from protoat.functional.merging import merge_pairs, merge_prototypes
from protoat.functional.sub_logits import Similarity, class_logits, sub_logits
from protoat.merging import MergeSchedule, forget
from protoat.reprs import constructor_repr


class MultiPrototypeHead(nn.Module):
    """Embeddings (B, D) to class scores (B, C), each the logsumexp over the scores of the class's prototypes.

    It stands in the place of the last linear layer (`with_head`), so attacks, exports and other libraries see class
    scores. With one prototype for each class and dot products it is ``nn.Linear(embedding_dim, num_classes)``, initial
    weights included, bit for bit.

    Args:
        embedding_dim: D.
        num_classes: C.
        prototypes_per_class: a number, or one for each class. Classes with more prototypes begin with higher scores.
        similarity: ``"dot"``, a dot product and a bias for each prototype; or ``"cosine"``.
        scale: factor of the scores; None is 1 for dot products, and 20 for cosines.
        merge_threshold: prototypes of a class nearer than this, as unit vectors, become one; None or 0 never merges.
        merge_start, merge_stop, merge_every: when, see `SoftTriple`.

    Attributes:
        prototypes: (C, K, D) parameter, K the largest count; its shape never changes.
        bias: (C * K,), class by class: a parameter with dot products, and a buffer, 0 until prototypes merge, with
            cosines.
        active: (C, K) bool buffer, the prototypes in use.

    Raises:
        ValueError: an argument out of range; in use, embeddings of another size.

    Source: logsumexp over the components of a class is the class posterior of a mixture with shared covariance (Hastie
    and Tibshirani 1996, mixture discriminant analysis). SoftTriple's head (Qian et al., ICCV 2019) weighs cosines by a
    softmax instead, which bounds the score of a class by that of its nearest prototype.

    >>> head = MultiPrototypeHead(16, 2, prototypes_per_class=[3, 4])
    >>> head(torch.randn(8, 16)).shape, head.sub_logits(torch.randn(8, 16)).shape, head.active.sum(1).tolist()
    (torch.Size([8, 2]), torch.Size([8, 2, 4]), [3, 4])
    """

    active: Tensor
    bias: Tensor

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        prototypes_per_class: int | list[int] = 10,
        similarity: Similarity = "dot",
        scale: float | None = None,
        merge_threshold: float | None = None,
        merge_start: float = 0.25,
        merge_stop: float = 0.9,
        merge_every: int = 1,
    ) -> None:
        super().__init__()
        check_whole(embedding_dim=embedding_dim, num_classes=num_classes)
        check_choice(Similarity, similarity=similarity)
        counts = counts_per_class(num_classes, prototypes_per_class=prototypes_per_class)
        scale = {"dot": 1.0, "cosine": 20.0}[similarity] if scale is None else scale
        check_number("(0, inf)", scale=scale)
        self.embedding_dim = embedding_dim
        self.num_classes = num_classes
        self.prototypes_per_class = counts
        self.similarity = similarity
        self.scale = float(scale)
        self.schedule = MergeSchedule(merge_threshold, merge_start, merge_stop, merge_every)
        self.merge_threshold = merge_threshold
        self.merge_start, self.merge_stop, self.merge_every = merge_start, merge_stop, merge_every
        places = (num_classes, max(counts))
        if similarity == "dot":
            linear = nn.Linear(embedding_dim, num_classes * max(counts))
            self.prototypes = nn.Parameter(linear.weight.detach().unflatten(0, places))
            self.bias = linear.bias
        else:
            self.prototypes = nn.Parameter(F.normalize(torch.randn(*places, embedding_dim), dim=2))
            self.register_buffer("bias", torch.zeros(num_classes * places[1]))
        self.register_buffer("active", torch.arange(places[1]) < torch.tensor(counts)[:, None])

    def __repr__(self) -> str:
        return constructor_repr(self)

    def sub_logits(self, embedding: Tensor) -> Tensor:
        """Scores (B, C, K) of the prototypes, in float32 at least; minus infinity at places not in use."""
        return sub_logits(
            embedding, self.prototypes, self.active, self.bias, similarity=self.similarity, scale=self.scale
        )

    def forward(self, embedding: Tensor) -> Tensor:
        return class_logits(self.sub_logits(embedding))

    def unreached(self, epochs: int) -> list[str]:
        """What never happens in a run of so many epochs, in words; `fit` warns of it."""
        return self.schedule.unreached(epochs)

    def end_epoch(self, epoch: int, epochs: int, optimizer: Optimizer | None = None) -> dict[str, Any]:
        """Merges when due; facts for the log: how many prototypes each class has left, and the merges made."""
        if not self.merge_threshold:
            return {}
        merged = self.merge(self.merge_threshold, optimizer) if self.schedule.due(epoch, epochs) else []
        return {"head_prototypes": self.active.sum(1).tolist(), "head_merged": merged}

    @torch.no_grad()
    def merge(self, threshold: float, optimizer: Optimizer | None = None) -> list[list[int]]:
        """Merges prototypes of a class that are nearer than this, as unit vectors, and returns what it merged.

        The one that is kept points between the two and has the mean of their lengths. Its bias is that of both
        together, so that where they were equal no score changes.

        Args:
            threshold: in [0, 2); see `protoat.functional.merging.merge_prototypes`.
            optimizer: forgets the momentum of what merged.

        Returns:
            Rows [class, place kept, place given up].

        >>> head = MultiPrototypeHead(4, 2, prototypes_per_class=3)
        >>> with torch.no_grad():
        ...     head.prototypes[1, 2] = 2 * head.prototypes[1, 0]
        >>> head.merge(0.01)
        [[1, 0, 2]]
        """
        equal = torch.ones_like(self.active, dtype=torch.float32)
        pairs = merge_prototypes(self.prototypes, self.active, equal, threshold).pairs
        self.merge_pairs(pairs, optimizer)
        return pairs.tolist()

    @torch.no_grad()
    def merge_pairs(self, pairs: Tensor, optimizer: Optimizer | None = None) -> None:
        """Merges as `merge` does, but pairs that are given: in an average of heads, those that merged in the head.

        Args:
            pairs: (M, 3) int64 rows [class, place kept, place given up], merged in this order.
            optimizer: forgets the momentum of what merged.
        """
        if not len(pairs):
            return
        equal = torch.ones_like(self.active, dtype=torch.float32)
        prototypes, active, _ = merge_pairs(self.prototypes, self.active, equal, pairs)
        bias = self.scale * self.bias.view_as(self.active)
        for cls, kept, gone in pairs.tolist():
            bias[cls, kept] = torch.logaddexp(bias[cls, kept], bias[cls, gone])
        self.prototypes.copy_(prototypes)
        self.active.copy_(active)
        self.bias.copy_(bias.flatten() / self.scale)
        classes, kept, gone = pairs.unbind(1)
        places = self.active.shape[1]
        forget(optimizer, self.prototypes, (classes, gone), (classes, kept))
        forget(optimizer, self.bias, (classes * places + gone,), (classes * places + kept,))
