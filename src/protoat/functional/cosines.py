"""Cosines of embeddings and prototypes, in float32 at least.

Shapes: B examples, D entries of an embedding, C classes, K places for the prototypes of a class.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from protoat.errors import UserError
from protoat.functional.precision import at_least_float32

_SQUARED_ZERO = 1e-24  # squared length of a vector without a direction


def cosines(embedding: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines of embeddings (B, D) with prototypes (C, K, D), (B, C, K), and of prototypes within classes, (C, K, K).

    A vector of length zero has cosine 0 with everything and receives no gradient. Call it outside of autocast.

    >>> cosines(torch.tensor([[0.0, 2.0]]), torch.eye(2)[None])
    (tensor([[[0., 1.]]]), tensor([[[1., 0.],
             [0., 1.]]]))
    """
    dtype = torch.promote_types(embedding.dtype, prototypes.dtype)
    z, w = at_least_float32(embedding.to(dtype)), at_least_float32(prototypes.to(dtype))
    dots, gram = _Products.apply(z * _inverse_length(z.square().sum(1, keepdim=True)), w)
    gram, inverse = normalised(gram)
    return dots * inverse, gram


def normalised(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Dot products (C, K, K) as cosines, and the inverse lengths (C, K) that their diagonal gives.

    >>> normalised(torch.full((1, 1, 1), 4.0))
    (tensor([[[1.]]]), tensor([[0.5000]]))
    """
    inverse = _inverse_length(gram.diagonal(dim1=1, dim2=2))
    return gram * inverse[:, :, None] * inverse[:, None, :], inverse


def active_cosines(embedding: Tensor, prototypes: Tensor, active: Tensor) -> Tensor:
    """Cosine of each embedding (B, D) to each prototype (C, K, D), (B, C, K); -inf to those that are not active."""
    return cosines(embedding, prototypes)[0].masked_fill(~active, float("-inf"))


def assign(embedding: Tensor, labels: Tensor, prototypes: Tensor, active: Tensor) -> Tensor:
    """The nearest prototype of its own class for each image, (B,) int64 places in 0..K-1.

    >>> prototypes = torch.eye(2).expand(2, 2, 2)
    >>> assign(torch.tensor([[0.0, 1.0], [3.0, 1.0]]), torch.tensor([0, 1]), prototypes, torch.ones(2, 2) > 0)
    tensor([1, 0])
    """
    return active_cosines(embedding, prototypes, active)[torch.arange(len(labels)), labels].argmax(1)


def check_prototypes(embedding: Tensor | None, prototypes: Tensor, active: Tensor) -> None:
    """Refuses prototypes, a mask or embeddings whose shapes do not fit each other.

    Raises:
        ValueError: they do not.
    """
    if prototypes.dim() != 3 or active.shape != prototypes.shape[:2]:
        raise UserError(
            f"prototypes have shape {tuple(prototypes.shape)} and their mask {tuple(active.shape)}; "
            "expected (C, K, D) and (C, K)"
        )
    if embedding is not None and (embedding.dim() != 2 or embedding.shape[1] != prototypes.shape[2]):
        raise UserError(
            f"embeddings have shape {tuple(embedding.shape)}, expected (B, {prototypes.shape[2]}), "
            "the size the prototypes were built for"
        )


class _Products(torch.autograd.Function):
    """Dot products of (B, D) with (C, K, D), and of the latter within each class: (B, C, K) and (C, K, K).

    The prototypes can be the largest tensor of a run, so each pass over them counts. They are never copied to be
    normalised, and their gradient is one buffer that both products add to.
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(u, w)
        return (u @ w.flatten(0, 1).T).view(len(u), *w.shape[:2]), torch.bmm(w, w.mT)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        u, w = ctx.saved_tensors
        of_dots, of_gram = gradients[0].flatten(1), gradients[1]
        of_u = of_w = None
        with torch.autocast(u.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                of_u = of_dots @ w.flatten(0, 1)
            if ctx.needs_input_grad[1]:
                of_w = (of_dots.T @ u).view_as(w)
                of_w.baddbmm_(of_gram + of_gram.mT, w)
        return of_u, of_w


def _inverse_length(square: Tensor) -> Tensor:
    """1 / length, from squared lengths; 0, with gradient 0, for a vector without a direction."""
    return square.clamp_min(_SQUARED_ZERO).rsqrt() * (square > _SQUARED_ZERO)
