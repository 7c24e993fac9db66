"""SoftTriple with several prototypes per class, which are dropped and merge as training goes."""

from __future__ import annotations

import logging
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from protoat.arguments import check_choice, check_flag, check_number, check_whole, counts_per_class
from protoat.errors import UserError
from protoat.functional.distributed import mean_over_processes, sum_over_processes
from protoat.functional.merging import count_prototypes, merge_prototypes
from protoat.functional.prototypes import prototype_similarity, soft_triple_terms
from protoat.functional.usage import after_merges, in_use, shares, unused
from protoat.merging import MergeSchedule, forget
from protoat.regularizers.kmeans_start import KMeansStart
from protoat.regularizers.projection import Kind, ProxyRegularizer
from protoat.spelling import argument, setting, together

logger = logging.getLogger(__name__)

_LOGGED_THRESHOLDS = (0.05, 0.1, 0.2)
_IN_USE = 0.01  # share of the images of a class from which on a prototype counts as used
_ALMOST_ALL = 0.9
_SHARING = 0.3  # gamma from which on, behind a projection, prototypes share images without a loss of accuracy shown


class SoftTriple(ProxyRegularizer):
    """SoftTriple loss on embeddings + `tau` x the spread of each class's prototypes, which merge on a schedule.

    Args:
        num_classes: C.
        embedding_dim: D.
        prototypes_per_class: how many each class begins with, a number or one for each class. It should be below the
            number of images of a class. 1 is the single-mode case: a normalised softmax with margin, without spread
            term and merges.
        scale: the paper's lambda, on cosines; 10 where training is unstable.
        gamma: temperature of the softmax over the prototypes of one class (paper: 0.1). The higher, the more they share
            an image.
        margin: the paper's delta, in units of the cosine.
        tau: weight of the spread term, which pulls the prototypes of a class together (paper: 0.2).
        merge_threshold: prototypes of a class nearer than this, as unit vectors, become one; None or 0 never merges.
        drop_below: prototypes that are nearest to a smaller share of the images of their class, in [0, 1), over the
            epoch before are dropped, on the schedule of merges and before these; None or 0 never drops.
        merge_start: share of a run in [0, 1] before the first merge. 0.25 is the first drop of the learning rate in the
            paper's schedule; merge later if yours drops later.
        merge_stop: share of a run in [0, 1] after which nothing is merged.
        merge_every: epochs from one merge to the next.
        projection: the `Projection` between embeddings and prototypes: ``"batchnorm"``, ``"linear+batchnorm"``,
            ``"mlp"``, or None, as in the paper.
        prototype_init: ``"random"``; or ``"kmeans"``, the centres of each class's projected embeddings after
            `warmup_epochs`, before which the term is 0. They are those of the last images, at most 20,000 a process.
        warmup_epochs: epochs before ``"kmeans"``.
        tied: each mode of the objective's `modes` owns the prototype at its place in its class: an image of known mode
            is compared with that one of its class. They neither merge nor are dropped.

    Attributes:
        prototypes: (C, K, D) parameter, K the largest count. Its shape never changes, so checkpoints, optimizer state
            and distributed training outlive merges. Nothing here changes its dtype.
        active: (C, K) bool buffer, the prototypes in use.
        mass: (C, K) buffer, the examples assigned to each prototype of their own class in training mode since the last
            merge. Each process counts its own.
        used: (C, K) int64 buffer, the images nearest to each prototype of their own class in training mode in this
            epoch. Each process counts its own.

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

    per_process: ClassVar[tuple[str, ...]] = ("mass", "used", "kmeans.seen", "kmeans.seen_y")
    memory: ClassVar[tuple[str, ...]] = ("used",)  # which earlier checkpoints lack
    active: Tensor
    mass: Tensor
    used: Tensor | None

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        prototypes_per_class: int | list[int] = 10,
        scale: float = 20.0,
        gamma: float = 0.3,
        margin: float = 0.01,
        tau: float = 0.2,
        merge_threshold: float | None = 0.1,
        merge_start: float = 0.25,
        merge_stop: float = 0.9,
        merge_every: int = 1,
        drop_below: float | None = 0.01,
        projection: Kind | None = "batchnorm",
        prototype_init: Literal["random", "kmeans"] = "random",
        warmup_epochs: int = 1,
        tied: bool = False,
    ) -> None:
        check_whole(num_classes=num_classes, embedding_dim=embedding_dim)
        super().__init__(embedding_dim, projection)
        self.num_classes, self.embedding_dim = num_classes, embedding_dim
        counts = counts_per_class(num_classes, prototypes_per_class=prototypes_per_class)
        check_number("(0, inf)", scale=scale, gamma=gamma)
        check_number("[0, inf)", margin=margin, tau=tau)
        if drop_below is not None:
            check_number("[0, 1)", "it is a share of the images of a class", drop_below=drop_below)
        check_choice(Literal["random", "kmeans"], prototype_init=prototype_init)
        check_whole(warmup_epochs=warmup_epochs)
        check_flag(tied=tied)
        if tied and prototype_init == "kmeans":
            raise UserError(
                f"k-means does not know which mode a centre is of; write {setting(prototype_init='random')} with tied"
            )
        self.schedule = MergeSchedule(None if tied else merge_threshold, merge_start, merge_stop, merge_every)
        self.prototypes_per_class = counts
        self.scale, self.gamma, self.margin, self.tau = scale, gamma, margin, tau
        self.merge_threshold = merge_threshold
        self.merge_start, self.merge_stop, self.merge_every = merge_start, merge_stop, merge_every
        self.drop_below, self.prototype_init, self.warmup_epochs = drop_below, prototype_init, warmup_epochs
        self.tied = tied
        self._places: Tensor | None = None
        self._warned = False
        places = max(counts)
        self.prototypes = nn.Parameter(F.normalize(torch.randn(num_classes, places, embedding_dim), dim=2))
        self.register_buffer("active", torch.arange(places) < torch.tensor(counts)[:, None])
        self.register_buffer("mass", torch.zeros(num_classes, places))
        self.used = torch.zeros(num_classes, places, dtype=torch.int64)
        self.kmeans = KMeansStart() if prototype_init == "kmeans" else None

    def unreached(self, epochs: int) -> list[str]:
        found = self.schedule.unreached(epochs)
        if self.kmeans is not None and self.warmup_epochs >= epochs:
            found += [
                f"prototypes never start ({setting(warmup_epochs=self.warmup_epochs)}); write at most {epochs - 1}"
            ]
        return found

    def of_projected(self, embedding: Tensor, y: Tensor) -> Tensor:
        if self.training and self.kmeans is not None and not self.kmeans.started:
            self.kmeans.keep(embedding, y)
            return 0 * embedding.sum()
        places, settings = self._places, {"scale": self.scale, "gamma": self.gamma, "margin": self.margin}
        if places is not None and len(y) == 2 * len(places):
            places = torch.cat([places, places])  # of clean and adversarial images
        data, spread, assignment = soft_triple_terms(
            embedding, y, self.prototypes, self.active, places=places, **settings
        )
        if self.training:
            self.mass.index_add_(0, y, assignment.to(self.mass.dtype))
            self.used = torch.zeros_like(self.active, dtype=torch.int64) if self.used is None else self.used
            self.used.index_put_((y, assignment.argmax(1)), torch.ones_like(y), accumulate=True)
        return data + self.tau * spread if self.prototypes.shape[1] > 1 else data

    def check_modes(self, per_class: list[int] | None) -> None:
        if not self.tied:
            return
        if per_class is None:
            raise UserError("tied prototypes are those of modes; pass modes, such as protoat.KnownModes(train)")
        own = self.prototypes_per_class
        if len(own) != len(per_class) or any(has < needed for has, needed in zip(own, per_class, strict=True)):
            raise UserError(
                f"tied prototypes are those of modes: the classes have {own} prototypes and {per_class} modes; write "
                f"{setting(prototypes_per_class=per_class)}"
            )

    def at_places(self, places: Tensor | None) -> None:
        self._places = places if self.tied else None

    def similarity(self, embedding: Tensor) -> Tensor:
        """Smoothed similarity in [-1, 1] of embeddings (B, D) to every class, (B, C)."""
        return prototype_similarity(self.projected(embedding), self.prototypes, self.active, gamma=self.gamma)

    def predict(self, embedding: Tensor) -> Tensor:
        """Most similar class by prototypes, (B,). The deployed prediction is the head's; this is a second opinion."""
        return self.similarity(embedding).argmax(1)

    def end_epoch(self, epoch: int, epochs: int, optimizer: Optimizer | None = None) -> dict[str, Any]:
        """Starts, drops and merges prototypes when due; facts: their numbers, what became of them, how each is used.

        ``usage`` is the share of the images of its class that each prototype was nearest to in this epoch, and
        ``in_use`` how many of each class have 1 % or more, after merges, where one has the images of both;
        ``prototype_counts`` those that are left. A prototype that takes over 90 % of a class that began with several is
        warned of, once.
        """
        if self.kmeans is not None and not self.kmeans.started and epoch >= self.warmup_epochs:
            self.kmeans.place(self.prototypes, self.prototypes_per_class)
        used = torch.zeros_like(self.active, dtype=torch.int64) if self.used is None else self.used
        share = shares(sum_over_processes(used))
        used.zero_()
        self.used = used
        due = not self.tied and self.schedule.scheduled(epoch, epochs)
        dropped = self._drop(share, optimizer) if self.drop_below and due else []
        merged = self._merge(optimizer) if self.merge_threshold and due else []
        counts = {
            f"counts_at_{threshold}": count_prototypes(self.prototypes, self.active, threshold).tolist()
            for threshold in _LOGGED_THRESHOLDS
        }
        self._warn_of_one(share)
        own = self.active.sum(1).tolist()
        return {
            "prototypes": sum(own),
            "prototype_counts": own,
            "in_use": in_use(self.active, after_merges(share, merged), _IN_USE).tolist(),
            "dropped": dropped,
            "merged": merged,
            "usage": share.round(decimals=4).tolist(),
            **counts,
        }

    def _warn_of_one(self, share: Tensor) -> None:
        several = torch.tensor(self.prototypes_per_class, device=share.device) > 1
        largest, number = (share.amax(1) * several).max(0)
        if self._warned or self.tied or largest <= _ALMOST_ALL:
            return
        self._warned = True
        share_out = {"gamma": _SHARING} if self.gamma < _SHARING else {}
        logger.warning(
            "one prototype of class %d takes %.0f %% of its images; write %s",
            int(number),
            100 * float(largest),
            together(projection="batchnorm", **share_out)
            if self.projection is None
            else f"a higher {argument('gamma')}, {setting(tau=0)}, or a lower {argument('prototype_lr_factor')}",
        )

    def first_merge(self, epochs: int) -> int | None:
        """The epoch, from 1, after which prototypes may merge for the first time in a run of `epochs`; None is never.

        >>> SoftTriple(2, 16, merge_start=0.25).first_merge(120), SoftTriple(2, 16, merge_threshold=0).first_merge(120)
        (30, None)
        """
        return self.schedule.first(epochs)

    @torch.no_grad()
    def _drop(self, share: Tensor, optimizer: Optimizer | None) -> list[list[int]]:
        """Rows [class, place given up], the same in every process."""
        assert self.drop_below is not None
        gone = unused(self.active, share, self.drop_below)
        self.active &= ~gone
        forget(optimizer, self.prototypes, (gone,))
        return gone.nonzero().tolist()

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
            classes, kept, gone = pairs.unbind(1)
            forget(optimizer, self.prototypes, (classes, gone), (classes, kept))
        return pairs.tolist()
