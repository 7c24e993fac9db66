"""Losses of pytorch-metric-learning as regularizers."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protoat.arguments import check_flag, check_number, check_whole
from protoat.regularizers.base import Regularizer
from protoat.regularizers.projection import Kind, ProxyRegularizer


class _LibraryLoss(Regularizer):
    """Runs a loss of the library in float32, outside autocast."""

    def __init__(self, loss: nn.Module, num_classes: int, embedding_dim: int) -> None:
        super().__init__()
        self.num_classes, self.embedding_dim = num_classes, embedding_dim
        self.loss: Any = loss

    def forward(self, embedding: Tensor, y: Tensor) -> Tensor:
        with torch.autocast(embedding.device.type, enabled=False):
            return self._value(embedding.to(torch.float32), y)

    @abstractmethod
    def _value(self, embedding: Tensor, y: Tensor) -> Tensor: ...


class _LibraryProxyLoss(ProxyRegularizer):
    """Runs a loss of the library in the type of its proxies, which it would otherwise convert, outside autocast."""

    def __init__(self, loss: nn.Module, num_classes: int, embedding_dim: int, projection: Kind | None) -> None:
        super().__init__(embedding_dim, projection)
        self.num_classes, self.embedding_dim = num_classes, embedding_dim
        self.loss: Any = loss

    def of_projected(self, embedding: Tensor, y: Tensor) -> Tensor:
        with torch.autocast(embedding.device.type, enabled=False):
            return self._value(embedding.to(self.loss.proxies.dtype), y)

    @abstractmethod
    def _value(self, embedding: Tensor, y: Tensor) -> Tensor: ...


class Triplet(_LibraryLoss):
    """Triplet margin loss on unit vectors over the triplets of a batch, averaged over those inside the margin.

    Args:
        num_classes, embedding_dim: without effect; accepted so that every regularizer is built alike.
        margin: Euclidean distance of unit vectors by which the positive has to be nearer (library: 0.05).
        triplets_per_anchor: ``"all"``, whose memory grows as the cube of the batch, or how many to draw.

    Source: Weinberger & Saul, JMLR 2009; pytorch-metric-learning's `TripletMarginLoss`, with its defaults. Deviation:
    the row "Triplet" in the paper's Table 6 repeats the figures of its TLA, which is `TLA` here.

    >>> y = torch.tensor([0, 0, 1, 1])
    >>> float(Triplet(2, 2)(torch.eye(2)[y], y))
    0.0
    """

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        margin: float = 0.05,
        triplets_per_anchor: int | Literal["all"] = "all",
    ) -> None:
        check_number("[0, inf)", margin=margin)
        if triplets_per_anchor != "all":
            check_whole(1, "or write 'all'", triplets_per_anchor=triplets_per_anchor)
        from pytorch_metric_learning.losses import TripletMarginLoss

        loss = TripletMarginLoss(margin=margin, triplets_per_anchor=triplets_per_anchor)
        super().__init__(loss, num_classes, embedding_dim)
        self.margin, self.triplets_per_anchor = margin, triplets_per_anchor

    def _value(self, embedding: Tensor, y: Tensor) -> Tensor:
        return self.loss(embedding, y)


class NPair(_LibraryLoss):
    """N-pair loss: the positive of each anchor against those of all other classes, by dot product.

    Images of a class are paired in the order of the batch, and the m-th pairs of all classes form one N-pair problem.
    The library forms the first only: of a batch of 128 with two classes it uses two pairs.

    Args:
        num_classes, embedding_dim: without effect; accepted so that every regularizer is built alike.
        pairs_per_class: pairs of each class to use; default as many as the batch holds, 1 is the library's loss.
        normalize: compare unit vectors, as the library does by default; the softmax is then almost flat.
        norm_reg: weight of the mean squared length of the paired embeddings.

    Raises:
        ValueError: no pair asked for, or a negative weight.

    Source: Sohn, NIPS 2016. The paper gives no weight for the lengths; 0.02 is ours. Deviation: several pairs of a
    class, see above.

    >>> y = torch.tensor([0, 0, 1, 1])
    >>> round(float(NPair(2, 2, norm_reg=0.0)(torch.eye(2)[y], y)), 4)
    0.3133
    """

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        pairs_per_class: int | None = None,
        normalize: bool = False,
        norm_reg: float = 0.02,
    ) -> None:
        if pairs_per_class is not None:
            check_whole(pairs_per_class=pairs_per_class)
        check_flag(normalize=normalize)
        check_number("[0, inf)", norm_reg=norm_reg)
        from pytorch_metric_learning.distances import DotProductSimilarity
        from pytorch_metric_learning.losses import NPairsLoss

        similarity = DotProductSimilarity(normalize_embeddings=normalize)
        super().__init__(NPairsLoss(distance=similarity), num_classes, embedding_dim)
        self.pairs_per_class = pairs_per_class
        self.normalize = normalize
        self.norm_reg = norm_reg

    def _value(self, embedding: Tensor, y: Tensor) -> Tensor:
        anchor, positive, problem = self._pairs(y)
        if not len(anchor):
            return 0 * embedding.sum()
        a, p = embedding[anchor], embedding[positive]
        logits = self.loss.distance(a, p).masked_fill(problem[:, None] != problem, float("-inf"))
        value = self.loss.cross_entropy(logits, torch.arange(len(a), device=y.device)).mean()
        return value + self.norm_reg * torch.cat([a, p]).square().sum(1).mean()

    def _pairs(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Anchor, positive and number of the N-pair problem, for each pair."""
        by_class, order = y.sort(stable=True)
        place = torch.arange(len(y), device=y.device) - torch.searchsorted(by_class, by_class)
        is_anchor = (place[:-1] % 2 == 0) & (by_class[1:] == by_class[:-1])
        if self.pairs_per_class is not None:
            is_anchor &= place[:-1] < 2 * self.pairs_per_class
        return order[:-1][is_anchor], order[1:][is_anchor], place[:-1][is_anchor] // 2


class ProxyNCA(_LibraryProxyLoss):
    """Proxy-NCA: one learnt proxy a class, cross-entropy on ``-softmax_scale * squared distance`` of unit vectors.

    Args:
        num_classes: C.
        embedding_dim: D.
        softmax_scale: scale of the squared distances: 32 as in the Proxy-Anchor authors' comparison; 9 in the public
            Proxy-NCA code. The library's 1 leaves the logits at most 4 apart, an almost flat softmax. A result should
            state it.
        projection: what stands between embeddings and proxies, as in `SoftTriple`; None as published.

    Raises:
        ValueError: a scale that is not positive; in use, embeddings of another size.

    Source: Movshovitz-Attias et al., ICCV 2017. Deviation: the own proxy stands in the denominator too, as in all
    later code. From the library come proxies and distances; the softmax is taken in the logarithm, because the library
    leaves out the images whose probability underflows, which at this scale are the worst ones.

    >>> ProxyNCA(10, 64).loss.proxies.shape
    torch.Size([10, 64])
    """

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        softmax_scale: float = 32.0,
        projection: Kind | None = "batchnorm",
    ) -> None:
        check_whole(num_classes=num_classes, embedding_dim=embedding_dim)
        check_number("(0, inf)", softmax_scale=softmax_scale)
        from pytorch_metric_learning.losses import ProxyNCALoss

        loss = ProxyNCALoss(num_classes, embedding_dim, softmax_scale=softmax_scale)
        super().__init__(loss, num_classes, embedding_dim, projection)
        self.softmax_scale = softmax_scale

    def _value(self, embedding: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(-self.softmax_scale * self.loss.get_logits(embedding), y)


class ProxyAnchor(_LibraryProxyLoss):
    """Proxy-Anchor: each class's proxy as the anchor of all images of the batch, on cosines.

    The value is a sum over images inside a logarithm and not a mean: it lies near ``alpha * (margin - cos)``, far above
    a cross-entropy, so that the same weight is a much stronger one.

    Args:
        num_classes: C.
        embedding_dim: D.
        margin: by how much the cosine to the own proxy should exceed 0, and those to others stay below (authors: 0.1).
        alpha: scale of the cosines (authors: 32).
        projection: what stands between embeddings and proxies, as in `SoftTriple`; None as published.

    Raises:
        ValueError: embeddings of another size than `embedding_dim`.

    Source: Kim et al., CVPR 2020, with its defaults; equal to pytorch-metric-learning's.

    >>> ProxyAnchor(10, 64).loss.proxies.shape
    torch.Size([10, 64])
    """

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        margin: float = 0.1,
        alpha: float = 32.0,
        projection: Kind | None = "batchnorm",
    ) -> None:
        check_whole(num_classes=num_classes, embedding_dim=embedding_dim)
        check_number("[0, inf)", margin=margin)
        check_number("(0, inf)", alpha=alpha)
        from pytorch_metric_learning.losses import ProxyAnchorLoss

        loss = ProxyAnchorLoss(num_classes, embedding_dim, margin=margin, alpha=alpha)
        super().__init__(loss, num_classes, embedding_dim, projection)
        self.margin, self.alpha = margin, alpha

    def _value(self, embedding: Tensor, y: Tensor) -> Tensor:
        return self.loss(embedding, y)
