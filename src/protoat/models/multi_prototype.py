"""A classification head with several prototypes per class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protoat.arguments import check_number, check_whole, counts_per_class
from protoat.errors import UserError
from protoat.functional.sub_logits import Similarity, class_logits, sub_logits
from protoat.reprs import constructor_repr

__all__ = ["MultiPrototypeHead"]


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

    Attributes:
        prototypes: (C, K, D) parameter, K the largest count.
        bias: (C * K,) parameter, of no kernel, so it has one dimension; None with cosines.
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

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        prototypes_per_class: int | list[int] = 10,
        similarity: Similarity = "dot",
        scale: float | None = None,
    ) -> None:
        super().__init__()
        check_whole(embedding_dim=embedding_dim, num_classes=num_classes)
        if similarity not in ("dot", "cosine"):
            raise UserError(f"similarity={similarity!r} is unknown; write 'dot' or 'cosine'")
        counts = counts_per_class(num_classes, prototypes_per_class=prototypes_per_class)
        scale = {"dot": 1.0, "cosine": 20.0}[similarity] if scale is None else scale
        check_number("(0, inf)", scale=scale)
        self.embedding_dim = embedding_dim
        self.num_classes = num_classes
        self.prototypes_per_class = counts
        self.similarity = similarity
        self.scale = float(scale)
        places = (num_classes, max(counts))
        if similarity == "dot":
            linear = nn.Linear(embedding_dim, num_classes * max(counts))
            self.prototypes = nn.Parameter(linear.weight.detach().unflatten(0, places))
            self.bias = linear.bias
        else:
            self.prototypes = nn.Parameter(F.normalize(torch.randn(*places, embedding_dim), dim=2))
            self.register_parameter("bias", None)
        self.register_buffer("active", torch.arange(places[1]) < torch.tensor(counts)[:, None])

    def __repr__(self) -> str:
        return constructor_repr(self)

    def sub_logits(self, embedding: Tensor) -> Tensor:
        """Scores (B, C, K) of the prototypes, in float32 at least; minus infinity at places not in use."""
        return sub_logits(embedding, self.prototypes, self.active, self.bias, scale=self.scale)

    def forward(self, embedding: Tensor) -> Tensor:
        return class_logits(self.sub_logits(embedding))
