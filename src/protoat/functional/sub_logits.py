"""Scores of the prototypes of a classification head, and the class scores that they make."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from protoat.functional.cosines import check_prototypes, cosines
from protoat.functional.precision import at_least_float32

Similarity = Literal["dot", "cosine"]


def sub_logits(
    embedding: Tensor,
    prototypes: Tensor,
    active: Tensor,
    bias: Tensor,
    *,
    similarity: Similarity = "dot",
    scale: float = 1.0,
) -> Tensor:
    """``scale * (<z, w> + b)`` of each prototype, with the dot product or the cosine.

    Args:
        embedding: (B, D).
        prototypes: (C, K, D).
        active: (C, K) bool, the prototypes in use.
        bias: (C * K,), class by class.
        similarity: ``"dot"`` or ``"cosine"``.
        scale: factor of all scores.

    Returns:
        (B, C, K) in float32 (float64 if an input is); minus infinity where a place is not in use.

    Raises:
        ValueError: shapes that do not fit.

    >>> prototypes, active = torch.eye(2)[None], torch.tensor([[True, False]])
    >>> sub_logits(torch.tensor([[3.0, 4.0]]), prototypes, active, torch.zeros(2))
    tensor([[[3., -inf]]])
    >>> sub_logits(torch.tensor([[3.0, 4.0]]), prototypes, active, torch.zeros(2), similarity="cosine", scale=10)
    tensor([[[6., -inf]]])
    """
    check_prototypes(embedding, prototypes, active)
    if similarity == "cosine":
        with torch.autocast(embedding.device.type, enabled=False):
            scores = cosines(embedding, prototypes)[0] + bias.view_as(active)
    else:
        dtype = torch.promote_types(embedding.dtype, prototypes.dtype)  # attacks hold embeddings in that of the images
        z, w, b = (value.to(dtype) for value in (embedding, prototypes.flatten(0, 1), bias))
        scores = F.linear(z, w, b).unflatten(1, active.shape)
    return (scale * at_least_float32(scores)).masked_fill(~active, float("-inf"))


def class_logits(sub: Tensor) -> Tensor:
    """Log of the summed exponentials of each class's prototypes, (B, C), of sub-logits (B, C, K).

    Their softmax over classes is the sum of the softmax over all prototypes: the class posterior of a mixture.

    >>> class_logits(torch.tensor([[[0.0, 0.0], [1.0, float("-inf")]]]))
    tensor([[0.6931, 1.0000]])
    """
    return sub.logsumexp(2)
