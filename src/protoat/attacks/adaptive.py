"""Attacks that know the prototypes: losses for PGD and APGD, and the classifier that predicts by prototypes."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protoat.arguments import check_number
from protoat.attacks.apgd import APGD
from protoat.attacks.base import Attack
from protoat.attacks.displacement import EmbeddingDisplacement
from protoat.functional.forward import output_of
from protoat.functional.losses import cross_entropy
from protoat.functional.prototypes import prototype_similarity
from protoat.threats import ThreatModel
from protoat.types import Output


class PrototypeLoss(ABC):
    """A per-example loss ``(Output, labels) -> (B,)`` that knows the prototypes, for the `loss` of `PGD` and `APGD`.

    Args:
        prototypes: (C, K, D); copied, so later training does not change the attack.
        active: (C, K) bool, the prototypes in use; all by default.
        gamma: temperature of the softmax over the prototypes of a class, as in training.
        projection: what stands between embeddings and prototypes, such as `SoftTriple.project`; copied, in eval mode.
    """

    def __init__(
        self,
        prototypes: Tensor,
        active: Tensor | None = None,
        *,
        gamma: float = 0.3,
        projection: nn.Module | None = None,
    ) -> None:
        self.prototypes = prototypes.detach().clone()
        self.active = torch.ones_like(prototypes[..., 0], dtype=torch.bool) if active is None else active.clone()
        check_number("(0, inf)", gamma=gamma)
        self.gamma = gamma
        self.projection = _fixed(projection)
        self._called(gamma=gamma)

    def _called(self, **settings: float) -> None:
        """Fixes the name that `Attack.parameters` records."""
        listed = [f"{name}={value:g}" for name, value in settings.items()]
        if kind := getattr(self.projection, "kind", None):
            listed.append(f"projection={kind}")
        self.__qualname__ = f"{type(self).__name__}({', '.join(listed)})"

    @abstractmethod
    def __call__(self, output: Output, y: Tensor) -> Tensor: ...

    def similarity(self, output: Output) -> Tensor:
        """Smoothed similarity S' to each class, (B, C)."""
        device = output.embedding.device
        return prototype_similarity(
            self.projected(output), self.prototypes.to(device), self.active.to(device), gamma=self.gamma
        )

    def projected(self, output: Output) -> Tensor:
        """Embeddings as the prototypes see them, (B, D)."""
        return self.projection.to(output.embedding.device)(output.embedding)


class WithSoftTriple(PrototypeLoss):
    """Cross-entropy of the head plus `weight` x SoftTriple: an adversary that raises the whole training loss.

    Args:
        prototypes, active, gamma, projection: as in `PrototypeLoss`.
        weight: of the SoftTriple term.
        scale, margin: of SoftTriple, as in training.

    Source: Carlini et al. 2019, on attacking the whole defence; paper, Eq. 5 without the terms that do not depend on
    the image.

    >>> loss = WithSoftTriple(torch.eye(2)[:, None], weight=0.5)
    >>> loss(Output(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])), torch.tensor([1])) > 10
    tensor([True])
    """

    def __init__(
        self,
        prototypes: Tensor,
        active: Tensor | None = None,
        *,
        weight: float = 1.0,
        scale: float = 20.0,
        gamma: float = 0.3,
        margin: float = 0.01,
        projection: nn.Module | None = None,
    ) -> None:
        super().__init__(prototypes, active, gamma=gamma, projection=projection)
        check_number("[0, inf)", weight=weight, margin=margin)
        check_number("(0, inf)", scale=scale)
        self.weight = weight
        self.scale = scale
        self.margin = margin
        self._called(weight=weight, scale=scale, gamma=gamma, margin=margin)

    def __call__(self, output: Output, y: Tensor) -> Tensor:
        similarity = self.similarity(output)
        own = F.one_hot(y, similarity.shape[1]).to(similarity.dtype)
        metric = F.cross_entropy(self.scale * (similarity - self.margin * own), y, reduction="none")
        return cross_entropy(output, y) + self.weight * metric


class LeaveOwn(PrototypeLoss):
    """Falling similarity to the own class, ``-S'_y``; lowered at a target, it approaches the target's prototypes.

    >>> loss = LeaveOwn(torch.eye(2)[:, None])
    >>> loss(Output(torch.zeros(1, 2), torch.tensor([[3.0, 0.0]])), torch.tensor([0]))
    tensor([-1.])
    """

    def __call__(self, output: Output, y: Tensor) -> Tensor:
        return -self.similarity(output).gather(1, y[:, None]).squeeze(1)


class ApproachWrong(PrototypeLoss):
    """Cosine with the nearest prototype of any other class.

    >>> loss = ApproachWrong(torch.eye(2)[:, None])
    >>> loss(Output(torch.zeros(1, 2), torch.tensor([[0.0, 2.0]])), torch.tensor([0]))
    tensor([1.])
    """

    def __call__(self, output: Output, y: Tensor) -> Tensor:
        device = output.embedding.device
        owner = self.active.nonzero()[:, 0].to(device)
        # Each prototype as a class of its own, so that its similarity is its cosine.
        each = self.prototypes[self.active][:, None].to(device)
        cosine = prototype_similarity(self.projected(output), each, torch.ones_like(each[..., 0], dtype=torch.bool))
        return cosine.masked_fill(owner == y[:, None], -torch.inf).amax(1)


def _fixed(projection: nn.Module | None) -> nn.Module:
    """A copy that evaluates and does not learn."""
    return nn.Identity() if projection is None else copy.deepcopy(projection).eval().requires_grad_(False)


class PrototypeClassifier(nn.Module):
    """A model whose logits are ``scale * S'``: what has to be attacked where prototypes predict.

    Args:
        model: images -> `Output`; kept, not copied.
        prototypes: (C, K, D); copied.
        active: (C, K) bool, the prototypes in use; all by default.
        gamma: temperature of the softmax over the prototypes of a class, as in training.
        scale: of the logits.
        projection: what stands between embeddings and prototypes, such as `SoftTriple.project`; copied.

    >>> class Identity(nn.Module):
    ...     def forward(self, x):
    ...         return Output(torch.zeros(len(x), 2), x)
    >>> PrototypeClassifier(Identity(), torch.eye(2)[:, None])(torch.tensor([[0.0, 0.5]])).logits
    tensor([[ 0., 20.]])
    """

    prototypes: Tensor
    active: Tensor

    def __init__(
        self,
        model: nn.Module,
        prototypes: Tensor,
        active: Tensor | None = None,
        *,
        gamma: float = 0.3,
        scale: float = 20.0,
        projection: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_number("(0, inf)", gamma=gamma, scale=scale)
        self.model = model
        self.projection = _fixed(projection)
        self.gamma = gamma
        self.scale = scale
        active = torch.ones_like(prototypes[..., 0], dtype=torch.bool) if active is None else active
        self.register_buffer("prototypes", prototypes.detach().clone())
        self.register_buffer("active", active.clone())

    def forward(self, x: Tensor) -> Output:
        embedding = output_of(self.model, x).embedding
        similarity = prototype_similarity(self.projection(embedding), self.prototypes, self.active, gamma=self.gamma)
        return Output(self.scale * similarity, embedding)


def adaptive_attacks(
    threat: ThreatModel,
    prototypes: Tensor,
    active: Tensor | None = None,
    *,
    weight: float = 1.0,
    scale: float = 20.0,
    gamma: float = 0.3,
    margin: float = 0.01,
    projection: nn.Module | None = None,
    steps: int = 100,
    restarts: int = 1,
    seed: int = 0,
) -> dict[str, Attack]:
    """The attacks that know the prototypes, by name, ready for an evaluation; success is judged by the model's logits.

    To attack ``argmax S'``, run these or any other attack on a `PrototypeClassifier`.

    Args:
        threat: norm and radius.
        prototypes: (C, K, D).
        active: (C, K) bool, the prototypes in use; all by default.
        weight, scale, gamma, margin: of the SoftTriple term, as in training.
        projection: what stands between embeddings and prototypes, such as `SoftTriple.project`.
        steps, restarts, seed: of each attack; all take the steps of APGD.

    >>> from protoat.threats import Linf
    >>> list(adaptive_attacks(Linf("8/255"), torch.eye(2)[:, None]))
    ['adaptive-combined', 'adaptive-leave', 'adaptive-approach', 'adaptive-displace']
    """
    losses = {
        "combined": WithSoftTriple(
            prototypes, active, weight=weight, scale=scale, gamma=gamma, margin=margin, projection=projection
        ),
        "leave": LeaveOwn(prototypes, active, gamma=gamma, projection=projection),
        "approach": ApproachWrong(prototypes, active, gamma=gamma, projection=projection),
    }
    attacks: dict[str, Attack] = {
        f"adaptive-{name}": APGD(threat, loss=loss, steps=steps, restarts=restarts, seed=seed)
        for name, loss in losses.items()
    }
    return attacks | {"adaptive-displace": EmbeddingDisplacement(threat, steps=steps, restarts=restarts, seed=seed)}
