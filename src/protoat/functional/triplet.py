"""Triplet mining and the triplet hinge loss, in cosine distance."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from protoat.errors import UserError
from protoat.functional.precision import at_least_float32


def _unit(embedding: Tensor) -> Tensor:
    return F.normalize(at_least_float32(embedding), dim=1, eps=1e-12)


def cosine_distance(u: Tensor, v: Tensor, *, absolute: bool = False) -> Tensor:
    """``1 - cos(u, v)`` row by row, shape (B,), in [0, 2].

    Args:
        u, v: (B, D) embeddings.
        absolute: ``1 - |cos|``, for which opposite vectors count as identical; the same on non-negative embeddings.

    >>> cosine_distance(torch.tensor([[1.0, 0.0]]), torch.tensor([[-2.0, 0.0]]))
    tensor([2.])
    """
    cosine = (_unit(u) * _unit(v)).sum(1)
    return 1 - (cosine.abs() if absolute else cosine)


def triplet_hinge(
    anchor: Tensor, positive: Tensor, negative: Tensor, *, margin: float, absolute: bool = False
) -> Tensor:
    """Mean of ``max(0, d(anchor, positive) - d(anchor, negative) + margin)`` over the rows, with `cosine_distance`.

    Args:
        anchor, positive, negative: (B, D) embeddings.
        margin: how much nearer the positive has to be, as a cosine.
        absolute: see `cosine_distance`.

    Source: Mao et al., NeurIPS 2019.

    >>> a, p, n = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    >>> triplet_hinge(a, p, n, margin=0.5)
    tensor(1.5000)
    """
    gap = cosine_distance(anchor, positive, absolute=absolute) - cosine_distance(anchor, negative, absolute=absolute)
    return F.relu(gap + margin).mean()


@torch.no_grad()
def hardest_negative(anchor: Tensor, candidates: Tensor, y: Tensor, y_candidates: Tensor) -> Tensor:
    """Index of the most similar candidate of another class, for each anchor, shape (B,).

    Args:
        anchor: (B, D) embeddings.
        candidates: (P, D) embeddings.
        y: (B,) labels of the anchors.
        y_candidates: (P,) labels of the candidates.

    Raises:
        ValueError: an anchor has no candidate of another class.

    Source: Mao et al., NeurIPS 2019. Deviation: candidates of the anchor's class get -inf in place of 0, which is
    chosen wrongly where every similarity is negative.

    >>> anchor, candidates = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [-1.0, 0.1], [-1.0, 0.0]])
    >>> hardest_negative(anchor, candidates, torch.tensor([0]), torch.tensor([0, 1, 1]))
    tensor([1])
    """
    same = y[:, None] == y_candidates
    if bool(same.all(1).any()):
        lonely = int(y[same.all(1)][0])
        raise UserError(
            f"images of class {lonely} have no candidate of another class among {len(y_candidates)}; triplets need two "
            "classes: use a larger batch, drop the last incomplete one, or mine in more batches (mul_num)"
        )
    with torch.autocast(anchor.device.type, enabled=False):
        similarity = _unit(anchor) @ _unit(candidates).T
    return similarity.masked_fill(same, float("-inf")).argmax(1)


def other_of_class(y: Tensor, y_candidates: Tensor, itself: Tensor) -> Tensor:
    """Index of a random candidate of the same class, for each image, shape (B,); itself where there is no other.

    Args:
        y: (B,) labels.
        y_candidates: (P,) labels of the candidates, which include the images.
        itself: (B,) where each image stands among the candidates.

    >>> y = torch.tensor([0, 1, 0])
    >>> other_of_class(y, y, torch.arange(3))
    tensor([2, 1, 0])
    """
    same = (y[:, None] == y_candidates).scatter(1, itself[:, None], False)
    alone = ~same.any(1, keepdim=True)
    return torch.multinomial(same.scatter(1, itself[:, None], alone).float(), 1).squeeze(1)
