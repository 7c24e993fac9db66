"""SoftTriple with several prototypes per class, which merge as training goes."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from protoat.arguments import check_number, check_whole, counts_per_class
from protoat.errors import UserError
from protoat.functional.distributed import mean_over_processes
from protoat.functional.merging import count_prototypes, merge_prototypes
from protoat.functional.prototypes import prototype_similarity, soft_triple_terms
from protoat.regularizers.projection import Kind, ProxyRegularizer

__all__ = ["SoftTriple"]

_LOGGED_THRESHOLDS = (0.05, 0.1, 0.2)


class SoftTriple(ProxyRegularizer):
    """SoftTriple loss on embeddings + `tau` x the spread of each class's prototypes, which merge on a schedule.

    Args:
        num_classes: C.
        embedding_dim: D.
        prototypes_per_class: how many each class begins with, a number or one for each class. It should be below the
            number of images of a class. 1 is the single-mode case: a normalised softmax with margin, without spread
            term and merges.
        scale: the paper's lambda, on cosines; 10 where training is unstable.
        gamma: temperature of the softmax over the prototypes of one class (paper: 0.1).
        margin: the paper's delta, in units of the cosine.
        tau: weight of the spread term, which pulls the prototypes of a class together (paper: 0.2).
        merge_threshold: prototypes of a class nearer than this, as unit vectors, become one; None or 0 never merges.
        merge_start: share of a run in [0, 1] before the first merge. 0.25 is the first drop of the learning rate in the
            paper's schedule; merge later if yours drops later.
        merge_stop: share of a run in [0, 1] after which nothing is merged.
        merge_every: epochs from one merge to the next.
        projection: what stands between embeddings and prototypes, see `Projection`: ``"batchnorm"``,
            ``"linear+batchnorm"``, ``"mlp"``, or None, as in the paper.

    Attributes:
        prototypes: (C, K, D) parameter, K the largest count. Its shape never changes, so checkpoints, optimizer state
            and distributed training outlive merges. Nothing here changes its dtype.
        active: (C, K) bool buffer, the prototypes in use.
        mass: (C, K) buffer, the examples assigned to each prototype of their own class in training mode since the last
            merge. Each process counts its own.

    Raises:
        ValueError: an argument out of range; in use, embeddings of another size, labels outside the classes, an empty
            batch.

    Source: paper, Eq. 3 to 5; Qian et al., ICCV 2019, from whose code `scale` and `margin` come (`gamma` and `tau` too,
    and the paper states them). Deviation: prototypes start as random unit vectors. The public code draws them uniformly
    with a bound of ``1 / sqrt(CK)``: the directions are alike, but their length, about ``sqrt(D / 3CK)``, and with it
    the turn that one step of a given learning rate makes, depends on C, K and D. Under SGD a length L turns as far as
    unit vectors at ``1 / L^2`` of the rate (`prototype_lr_factor` of a recipe): 0.12 for C = 2, K = 10, D = 512, and
    1.5 for the paper's MNIST. The paper does not say how prototypes merge; the rule is ours. So is the projection:
    without it one prototype takes most images of a class, see docs/methods.md.

    >>> metric = SoftTriple(2, 16, prototypes_per_class=[3, 4])
    >>> metric.active.sum(1).tolist()
    [3, 4]
    >>> metric(torch.randn(8, 16), torch.arange(8) % 2).shape
    torch.Size([])
    """

    per_process: ClassVar[tuple[str, ...]] = ("mass",)
    active: Tensor
    mass: Tensor

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        prototypes_per_class: int | list[int] = 10,
        scale: float = 20.0,
        gamma: float = 0.1,
        margin: float = 0.01,
        tau: float = 0.2,
        merge_threshold: float | None = 0.1,
        merge_start: float = 0.25,
        merge_stop: float = 0.9,
        merge_every: int = 1,
        projection: Kind | None = "batchnorm",
    ) -> None:
        check_whole(num_classes=num_classes, embedding_dim=embedding_dim)
        super().__init__(embedding_dim, projection)
        self.num_classes, self.embedding_dim = num_classes, embedding_dim
        counts = counts_per_class(num_classes, prototypes_per_class=prototypes_per_class)
        check_number("(0, inf)", scale=scale, gamma=gamma)
        check_number("[0, inf)", margin=margin, tau=tau)
        if merge_threshold is not None:
            check_number("[0, 2)", "these are the distances of unit vectors", merge_threshold=merge_threshold)
        check_number("[0, 1]", merge_start=merge_start, merge_stop=merge_stop)
        if merge_start > merge_stop:
            raise UserError(f"merge_start={merge_start:g} and merge_stop={merge_stop:g} must rise within [0, 1]")
        check_whole(1, "merge_threshold=0 turns merging off", merge_every=merge_every)
        self.prototypes_per_class = counts
        self.scale, self.gamma, self.margin, self.tau = scale, gamma, margin, tau
        self.merge_threshold = merge_threshold
        self.merge_start, self.merge_stop, self.merge_every = merge_start, merge_stop, merge_every
        places = max(counts)
        self.prototypes = nn.Parameter(F.normalize(torch.randn(num_classes, places, embedding_dim), dim=2))
        self.register_buffer("active", torch.arange(places) < torch.tensor(counts)[:, None])
        self.register_buffer("mass", torch.zeros(num_classes, places))

    def unreached(self, epochs: int) -> list[str]:
        if not self.merge_threshold or self.first_merge(epochs) is not None:
            return []
        return [
            f"prototypes never merge (merge_start={self.merge_start:g}, merge_stop={self.merge_stop:g}); "
            "write merge_start=0 and merge_stop=1, or merge_threshold=0 if none are to merge"
        ]

    def of_projected(self, embedding: Tensor, y: Tensor) -> Tensor:
        data, spread, assignment = soft_triple_terms(
            embedding, y, self.prototypes, self.active, scale=self.scale, gamma=self.gamma, margin=self.margin
        )
        if self.training:
            self.mass.index_add_(0, y, assignment.to(self.mass.dtype))
        return data + self.tau * spread if self.prototypes.shape[1] > 1 else data

    def similarity(self, embedding: Tensor) -> Tensor:
        """Smoothed similarity in [-1, 1] of embeddings (B, D) to every class, (B, C)."""
        return prototype_similarity(self.projected(embedding), self.prototypes, self.active, gamma=self.gamma)

    def predict(self, embedding: Tensor) -> Tensor:
        """Most similar class by prototypes, (B,). The deployed prediction is the head's; this is a second opinion."""
        return self.similarity(embedding).argmax(1)

    def end_epoch(self, epoch: int, epochs: int, optimizer: Optimizer | None = None) -> dict[str, Any]:
        """Merges when due; facts: prototypes in all and of each class, merges made, and counts at other thresholds.

        ``usage`` is the share of each prototype in the examples of its class since the last merge, before this one.
        """
        mass = mean_over_processes(self.mass)
        usage = (mass / mass.sum(1, keepdim=True).clamp_min(1e-12)).double().round(decimals=4).tolist()
        merged = self._merge(optimizer) if self._merge_due(epoch, epochs) else []
        counts = {
            f"counts_at_{threshold}": count_prototypes(self.prototypes, self.active, threshold).tolist()
            for threshold in _LOGGED_THRESHOLDS
        }
        own = self.active.sum(1).tolist()
        return {"prototypes": sum(own), "prototype_counts": own, "merged": merged, "usage": usage, **counts}

    def first_merge(self, epochs: int) -> int | None:
        """The epoch, from 1, after which prototypes may merge for the first time in a run of `epochs`; None is never.

        >>> SoftTriple(2, 16, merge_start=0.25).first_merge(120), SoftTriple(2, 16, merge_threshold=0).first_merge(120)
        (30, None)
        """
        first = max(1, math.ceil(_epochs(self.merge_start, epochs)))
        return first if self.merge_threshold and first <= _epochs(self.merge_stop, epochs) else None

    def _merge_due(self, epoch: int, epochs: int) -> bool:
        first = self.first_merge(epochs)
        if first is None:
            return False
        return first <= epoch <= _epochs(self.merge_stop, epochs) and (epoch - first) % self.merge_every == 0

    @torch.no_grad()
    def _merge(self, optimizer: Optimizer | None) -> list[list[int]]:
        """Rows [class, place kept, place given up], the same in every process."""
        assert self.merge_threshold is not None
        mass = mean_over_processes(self.mass)
        prototypes, active, pairs = merge_prototypes(self.prototypes, self.active, mass, self.merge_threshold)
        self.mass.zero_()
        if len(pairs):
            self.prototypes.copy_(prototypes)
            self.active.copy_(active)
            self._forget(optimizer, pairs)
        return pairs.tolist()

    def _forget(self, optimizer: Optimizer | None, pairs: Tensor) -> None:
        """Zeroes what the optimizer remembers of the row given up, and the momentum of the row kept.

        Running squares stay in the row that is kept: they are no momentum but set the length of a step, and bias
        correction, which does not start anew, would make the next steps many times too long.
        """
        classes, kept, gone = pairs.unbind(1)
        state = {} if optimizer is None else optimizer.state.get(self.prototypes, {})
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == self.prototypes.shape:
                value[classes, gone] = 0
                if name in ("momentum_buffer", "exp_avg"):
                    value[classes, kept] = 0


def _epochs(share: float, epochs: int) -> float:
    """So many epochs of a run: 0.07 of 100 are 7, where floats make it 7.000000000000001."""
    return round(share * epochs, 9)
