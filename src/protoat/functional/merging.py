"""Merges and counts prototypes of a class that are near to each other.

Shapes: C classes, K places for the prototypes of a class, D entries of a prototype. Directions are all that counts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from protoat.errors import UserError
from protoat.functional.cosines import check_prototypes
from protoat.functional.precision import at_least_float32


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
    check_prototypes(None, prototypes, active)
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
        todo, place = todo[near], place[near]
        pairs = torch.stack([todo, place // K, place % K], 1)
        _merge(prototypes, active, mass, pairs)
        merged.append(pairs)
    pairs = torch.cat(merged) if merged else torch.empty(0, 3, dtype=torch.int64, device=active.device)
    return Merge(prototypes, active, pairs)


@torch.no_grad()
def merge_pairs(prototypes: Tensor, active: Tensor, mass: Tensor, pairs: Tensor) -> Merge:
    """Merges pairs that are given, one after the other, as `merge_prototypes` merges those that it finds.

    Args:
        prototypes, active, mass: as there.
        pairs: (M, 3) int64, see `Merge`.

    >>> prototypes, active = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), torch.ones(1, 2, dtype=torch.bool)
    >>> merge_pairs(prototypes, active, torch.ones(1, 2), torch.tensor([[0, 0, 1]])).prototypes[0, 0]
    tensor([0.7071, 0.7071])
    """
    prototypes, active, mass = prototypes.clone(), active.clone(), mass.clone()
    for pair in pairs.split(1):
        _merge(prototypes, active, mass, pair)
    return Merge(prototypes, active, pairs)


def count_prototypes(prototypes: Tensor, active: Tensor, threshold: float) -> Tensor:
    """How many distinct prototypes each class has, (C,): those that `merge_prototypes` would leave, at equal masses.

    Source: the count that SoftTriple's authors report; how they counted is not known.

    >>> prototypes = torch.tensor([[[1.0, 0.0], [1.0, 0.01], [0.0, 1.0]]])
    >>> count_prototypes(prototypes, torch.ones(1, 3, dtype=torch.bool), 0.1)
    tensor([2])
    """
    return merge_prototypes(prototypes, active, torch.ones_like(active, dtype=torch.float32), threshold).active.sum(1)


def _merge(prototypes: Tensor, active: Tensor, mass: Tensor, pairs: Tensor) -> None:
    """Merges pairs (M, 3) in place, of each class one at most."""
    cls, kept, gone = pairs.unbind(1)
    first, second = prototypes[cls, kept], prototypes[cls, gone]
    m, n = mass[cls, kept], mass[cls, gone]
    equal = (m + n == 0).to(m.dtype)
    one, other = (F.normalize(at_least_float32(each), dim=1) for each in (first, second))
    direction = F.normalize((m + equal)[:, None] * one + (n + equal)[:, None] * other, dim=1)
    length = (first.norm(dim=1) + second.norm(dim=1)) / 2
    prototypes[cls, kept] = (direction * length[:, None]).to(prototypes.dtype)
    mass[cls, kept] = m + n
    active[cls, gone] = False
