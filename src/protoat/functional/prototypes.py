"""SoftTriple with several prototypes per class: its loss and its spread term.

Shapes: B examples, D entries of an embedding, C classes, K places for the prototypes of a class. A mask ``active`` of
shape (C, K) says which places are in use. Directions are all that counts: embeddings and prototypes of any length are
compared by their cosine. Everything is computed in float32 at least, also under autocast.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from protoat.errors import UserError
from protoat.functional.cosines import check_prototypes, cosines, normalised
from protoat.functional.precision import at_least_float32

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
        gamma: temperature of the softmax within a class (paper: 0.1; the default of `SoftTriple` is 0.3).
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
    places: Tensor | None = None,
) -> SoftTripleTerms:
    """`soft_triple` and `prototype_spread` together, which costs little more than one of them; arguments as there.

    Args:
        places: (B,) int64, the one prototype of its own class that an image is compared with, of which its similarity
            is then the cosine; -1 where none is told, whose similarity is the smoothed one.

    Raises:
        ValueError: shapes that do not fit, labels outside the classes, places that hold no prototype, or a class
            without an active prototype.

    >>> prototypes, active = torch.eye(2).expand(2, 2, 2), torch.ones(2, 2, dtype=torch.bool)
    >>> soft_triple_terms(torch.eye(2), torch.arange(2), prototypes, active).assignment.round()
    tensor([[1., 0.],
            [0., 1.]])
    """
    check_prototypes(embedding, prototypes, active)
    if y.shape != embedding.shape[:1] or not len(y):
        raise UserError(f"{len(embedding)} embeddings came with labels of shape {tuple(y.shape)}; expected (B,), B > 0")
    classes = len(prototypes)
    low, high, populated = torch.stack([y.amin(), y.amax(), active.any(1).all().to(y.dtype)]).tolist()
    if low < 0 or high >= classes:
        raise UserError(f"labels lie in {low}..{high}, expected 0..{classes - 1} for {classes} classes")
    if not populated:
        raise UserError("a class has no active prototype; each needs at least one")
    with torch.autocast(embedding.device.type, enabled=False):
        cosine, gram = cosines(embedding, prototypes)
        share = _assign(cosine, active, gamma)
        if places is not None:
            share = _at_places(share, y, places, active)
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
    check_prototypes(embedding, prototypes, active)
    with torch.autocast(embedding.device.type, enabled=False):
        cosine, _ = cosines(embedding, prototypes)
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
    check_prototypes(None, prototypes, active)
    with torch.autocast(prototypes.device.type, enabled=False):
        w = at_least_float32(prototypes)
        return _spread(normalised(torch.bmm(w, w.mT))[0], active)


def _assign(cosine: Tensor, active: Tensor, gamma: float) -> Tensor:
    return (cosine / gamma).masked_fill(~active, float("-inf")).softmax(2)


def _at_places(share: Tensor, y: Tensor, places: Tensor, active: Tensor) -> Tensor:
    """The same, with all of the own class's share at the place of each image, where one is told."""
    told = places >= 0
    if places.shape != y.shape or bool((places >= active.shape[1]).any()) or not bool(active[y, places][told].all()):
        raise UserError(f"places must be {len(y)} numbers of active prototypes, or -1, and are {places.tolist()[:8]}")
    own = told[:, None] & (F.one_hot(y, len(active)) > 0)
    return torch.where(own[:, :, None], F.one_hot(places.clamp_min(0), active.shape[1])[:, None].to(share.dtype), share)


def _spread(gram: Tensor, active: Tensor) -> Tensor:
    live = active[:, :, None] & active[:, None, :]
    pairs = live.triu(1)
    # Rounding can lift a cosine above 1; the distance must not become the root of a negative number.
    distance = ((2 - 2 * gram).clamp_min(0) + _ROOT_EPS).sqrt()
    return torch.where(pairs, distance, 0).sum() / (2 * pairs.sum()).clamp_min(1)
