"""SoftTriple with several prototypes per class: its loss, its spread term, and the merging of prototypes.

Shapes: B examples, D entries of an embedding, C classes, K places for the prototypes of a class. A mask ``active`` of
shape (C, K) says which places are in use. Directions are all that counts: embeddings and prototypes of any length are
compared by their cosine. Everything is computed in float32 at least, also under autocast.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from protoat.errors import UserError
from protoat.functional.precision import at_least_float32

__all__ = [
    "Merge",
    "SoftTripleTerms",
    "count_prototypes",
    "merge_prototypes",
    "prototype_similarity",
    "prototype_spread",
    "soft_triple",
    "soft_triple_terms",
]

_SQUARED_ZERO = 1e-24  # squared length of a vector without a direction
_ROOT_EPS = 1e-5  # bounds the slope of the distance between two equal prototypes


class SoftTripleTerms(NamedTuple):
    """What one pass over the prototypes gives.

    Attributes:
        data: scalar, the loss of the batch; `soft_triple`.
        spread: scalar, `prototype_spread`.
        assignment: (B, K) share of each prototype of its own class in an example's similarity; without gradient.
    """

    data: Tensor
    spread: Tensor
    assignment: Tensor


class Merge(NamedTuple):
    """Outcome of `merge_prototypes`.

    Attributes:
        prototypes: (C, K, D).
        active: (C, K) bool.
        pairs: (M, 3) int64, one row a merge in the order they were made: class, place kept, place given up.
    """

    prototypes: Tensor
    active: Tensor
    pairs: Tensor


def soft_triple(
    embedding: Tensor,
    y: Tensor,
    prototypes: Tensor,
    active: Tensor,
    *,
    scale: float = 20.0,
    gamma: float = 0.1,
    margin: float = 0.01,
) -> Tensor:
    """Cross-entropy of an example's smoothed similarity to every class, mean over the batch.

    The similarity ``S'`` to a class is the mean of the cosines to its prototypes, weighted by a softmax over the
    prototypes of this class; gradient flows through the weights too. The logits are ``scale * S'``, less
    ``scale * margin`` for the own class.

    Args:
        embedding: (B, D).
        y: (B,) int64 labels in 0..C-1.
        prototypes: (C, K, D).
        active: (C, K) bool; every class has at least one.
        scale: the paper's lambda. Halve it if the loss does not fall (advice of SoftTriple's authors).
        gamma: temperature of the softmax within a class.
        margin: the paper's delta, in units of the cosine.

    Returns:
        Scalar in float32 (float64 if an input is).

    Raises:
        ValueError: shapes that do not fit, an empty batch, labels out of range, a class without active prototypes.

    Source: Qian et al., ICCV 2019, Eq. 6 and its code, from which scale and margin come; paper, Eq. 3. Deviation: the
    embedding is normalised here; in that code the network does it. A vector of length zero has cosine 0 with everything
    and receives no gradient.

    >>> prototypes = torch.eye(2).view(2, 1, 2)
    >>> soft_triple(torch.eye(2), torch.tensor([1, 0]), prototypes, torch.ones(2, 1, dtype=torch.bool), margin=0.0)
    tensor(20.)
    """
    return soft_triple_terms(embedding, y, prototypes, active, scale=scale, gamma=gamma, margin=margin).data


def soft_triple_terms(
    embedding: Tensor,
    y: Tensor,
    prototypes: Tensor,
    active: Tensor,
    *,
    scale: float = 20.0,
    gamma: float = 0.1,
    margin: float = 0.01,
) -> SoftTripleTerms:
    """`soft_triple` and `prototype_spread` together, which costs little more than one of them; arguments as there.

    Raises:
        ValueError: shapes that do not fit, labels outside the classes, or a class without an active prototype.

    >>> prototypes, active = torch.eye(2).expand(2, 2, 2), torch.ones(2, 2, dtype=torch.bool)
    >>> soft_triple_terms(torch.eye(2), torch.arange(2), prototypes, active).assignment.round()
    tensor([[1., 0.],
            [0., 1.]])
    """
    _check(embedding, prototypes, active)
    if y.shape != embedding.shape[:1] or not len(y):
        raise UserError(f"{len(embedding)} embeddings came with labels of shape {tuple(y.shape)}; expected (B,), B > 0")
    classes = len(prototypes)
    low, high, populated = torch.stack([y.amin(), y.amax(), active.any(1).all().to(y.dtype)]).tolist()
    if low < 0 or high >= classes:
        raise UserError(f"labels lie in {low}..{high}, expected 0..{classes - 1} for {classes} classes")
    if not populated:
        raise UserError("a class has no active prototype; each needs at least one")
    with torch.autocast(embedding.device.type, enabled=False):
        cosine, gram = _cosines(embedding, prototypes)
        share = _assign(cosine, active, gamma)
        similarity = (share * cosine).sum(2)
        logits = scale * (similarity - margin * F.one_hot(y, classes).to(similarity.dtype))
        own = share.detach()[torch.arange(len(y), device=y.device), y]
        return SoftTripleTerms(F.cross_entropy(logits, y), _spread(gram, active), own)


def prototype_similarity(embedding: Tensor, prototypes: Tensor, active: Tensor, *, gamma: float = 0.1) -> Tensor:
    """Smoothed similarity ``S'`` in [-1, 1] of each example to each class, (B, C); its argmax predicts by prototypes.

    Arguments as in `soft_triple`.

    Raises:
        ValueError: shapes that do not fit.

    >>> prototypes = torch.eye(3).view(3, 1, 3)
    >>> prototype_similarity(torch.tensor([[0.0, 5.0, 0.0]]), prototypes, torch.ones(3, 1, dtype=torch.bool))
    tensor([[0., 1., 0.]])
    """
    _check(embedding, prototypes, active)
    with torch.autocast(embedding.device.type, enabled=False):
        cosine, _ = _cosines(embedding, prototypes)
        return (_assign(cosine, active, gamma) * cosine).sum(2)


def prototype_spread(prototypes: Tensor, active: Tensor) -> Tensor:
    """Half the mean distance between the active prototypes of a class, as unit vectors; 0 where each class has one.

    Minimised, it draws the prototypes of a class together until some coincide: it is the opposite of a repulsion.

    Args:
        prototypes: (C, K, D).
        active: (C, K) bool.

    Returns:
        Scalar: the sum of ``sqrt(2 + 1e-5 - 2 cos)`` over unordered pairs, divided by the sum of ``K_c (K_c - 1)``
        over classes with ``K_c`` active prototypes. Needs memory of (C, K, K), not (CK, CK).

    Raises:
        ValueError: shapes that do not fit.

    Source: Qian et al., ICCV 2019, Eq. 7 and code, whose 1e-5 in the root bounds the slope at equal prototypes by 316.
    pytorch-metric-learning 2.9 adds the smallest positive float there, which is lost beside 2 and bounds nothing.

    >>> prototype_spread(torch.eye(3).expand(2, 3, 3), torch.ones(2, 3, dtype=torch.bool))
    tensor(0.7071)
    """
    _check(None, prototypes, active)
    with torch.autocast(prototypes.device.type, enabled=False):
        w = at_least_float32(prototypes)
        return _spread(_normalised(torch.bmm(w, w.mT))[0], active)


@torch.no_grad()
def merge_prototypes(prototypes: Tensor, active: Tensor, mass: Tensor, threshold: float) -> Merge:
    """Merges the two nearest active prototypes of a class, again and again, until all are `threshold` apart.

    The merged prototype takes the first place of the two. It points to the mean of the two unit vectors, weighted by
    their masses, and has the mean of their lengths; its mass is their sum. The second place becomes inactive.

    Args:
        prototypes: (C, K, D).
        active: (C, K) bool.
        mass: (C, K) how many examples each stands for; two of mass zero weigh the same.
        threshold: Euclidean distance of unit vectors, in [0, 2); 0.1 is an angle of 5.7 degrees. Below 0.01 rounding in
            float32 decides.

    Returns:
        New tensors; the arguments stay as they are.

    Raises:
        ValueError: shapes that do not fit, or a threshold out of range.

    Source: ours. The paper says that the closest prototypes are merged gradually by L2 distance, and no more.

    >>> prototypes = torch.tensor([[[1.0, 0.0], [1.0, 0.01], [0.0, 1.0]]])
    >>> merge_prototypes(prototypes, torch.ones(1, 3, dtype=torch.bool), torch.ones(1, 3), 0.1).active
    tensor([[ True, False,  True]])
    """
    _check(None, prototypes, active)
    if mass.shape != active.shape:
        raise UserError(f"mass has shape {tuple(mass.shape)}, expected that of the mask, {tuple(active.shape)}")
    if not 0 <= threshold < 2:
        raise UserError(f"threshold={threshold:g} is outside [0, 2), the distances of unit vectors")
    prototypes, active, mass = prototypes.clone(), active.clone(), mass.clone()
    K = prototypes.shape[1]
    first_of_pair = torch.ones(K, K, dtype=torch.bool, device=active.device).triu(1)
    todo = torch.arange(len(prototypes), device=active.device)
    merged = []
    while K > 1 and len(todo):
        unit = F.normalize(at_least_float32(prototypes[todo]), dim=2)
        distance = (2 - 2 * torch.bmm(unit, unit.mT)).clamp_min(0).sqrt()
        live = active[todo, :, None] & active[todo, None, :] & first_of_pair
        nearest, place = distance.masked_fill(~live, float("inf")).flatten(1).min(1)
        near = nearest < threshold
        todo, unit, kept, gone = todo[near], unit[near], place[near] // K, place[near] % K
        row = torch.arange(len(todo), device=todo.device)
        m, n = mass[todo, kept], mass[todo, gone]
        equal = (m + n == 0).to(m.dtype)
        direction = F.normalize((m + equal)[:, None] * unit[row, kept] + (n + equal)[:, None] * unit[row, gone], dim=1)
        length = (prototypes[todo, kept].norm(dim=1) + prototypes[todo, gone].norm(dim=1)) / 2
        prototypes[todo, kept] = (direction * length[:, None]).to(prototypes.dtype)
        mass[todo, kept] = m + n
        active[todo, gone] = False
        merged.append(torch.stack([todo, kept, gone], 1))
    pairs = torch.cat(merged) if merged else torch.empty(0, 3, dtype=torch.int64, device=active.device)
    return Merge(prototypes, active, pairs)


def count_prototypes(prototypes: Tensor, active: Tensor, threshold: float) -> Tensor:
    """How many distinct prototypes each class has, (C,): those that `merge_prototypes` would leave, at equal masses.

    Source: the count that SoftTriple's authors report; how they counted is not known.

    >>> prototypes = torch.tensor([[[1.0, 0.0], [1.0, 0.01], [0.0, 1.0]]])
    >>> count_prototypes(prototypes, torch.ones(1, 3, dtype=torch.bool), 0.1)
    tensor([2])
    """
    return merge_prototypes(prototypes, active, torch.ones_like(active, dtype=torch.float32), threshold).active.sum(1)


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


def _cosines(embedding: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines of embeddings with prototypes, (B, C, K), and of prototypes within each class, (C, K, K)."""
    dtype = torch.promote_types(embedding.dtype, prototypes.dtype)
    z, w = at_least_float32(embedding.to(dtype)), at_least_float32(prototypes.to(dtype))
    dots, gram = _Products.apply(z * _inverse_length(z.square().sum(1, keepdim=True)), w)
    gram, inverse = _normalised(gram)
    return dots * inverse, gram


def _normalised(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Dot products (C, K, K) as cosines, and the inverse lengths (C, K) that their diagonal gives."""
    inverse = _inverse_length(gram.diagonal(dim1=1, dim2=2))
    return gram * inverse[:, :, None] * inverse[:, None, :], inverse


def _inverse_length(square: Tensor) -> Tensor:
    """1 / length, from squared lengths; 0, with gradient 0, for a vector without a direction."""
    return square.clamp_min(_SQUARED_ZERO).rsqrt() * (square > _SQUARED_ZERO)


def _assign(cosine: Tensor, active: Tensor, gamma: float) -> Tensor:
    return (cosine / gamma).masked_fill(~active, float("-inf")).softmax(2)


def _spread(gram: Tensor, active: Tensor) -> Tensor:
    live = active[:, :, None] & active[:, None, :]
    pairs = live.triu(1)
    # Rounding can lift a cosine above 1; the distance must not become the root of a negative number.
    distance = ((2 - 2 * gram).clamp_min(0) + _ROOT_EPS).sqrt()
    return torch.where(pairs, distance, 0).sum() / (2 * pairs.sum()).clamp_min(1)


def _check(embedding: Tensor | None, prototypes: Tensor, active: Tensor) -> None:
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
