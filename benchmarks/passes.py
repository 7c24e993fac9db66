"""How many passes through the network one optimizer step makes: counted on a network of one layer, not written down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from protoat import Objective
from protoat.data import ImageData, Origin
from protoat.methods import Method
from protoat.pretraining import Contrastive
from protoat.regularizers import Regularizer
from protoat.threats import Linf, ThreatModel
from protoat.types import Output

_CLASSES, _BATCH, _WIDTH = 4, 8, 16


@dataclass
class Passes:
    """Passes of a batch's images through the network, for each optimizer step.

    Attributes:
        forwards: with or without gradient, in any mode.
        to_images: backwards that end at the images, with frozen weights.
        to_weights: backwards that reach the weights.
    """

    forwards: float = 0
    to_images: float = 0
    to_weights: float = 0

    def __deepcopy__(self, memo: Any) -> Passes:
        """Copies of a network, such as a teacher, are counted with it."""
        return self

    @property
    def cost(self) -> float:
        """In forwards: a backward to the images costs as much as one, a backward to the weights as well two."""
        return self.forwards + self.to_images + 2 * self.to_weights


class _Counting(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, passes: Passes) -> Tensor:
        passes.forwards += len(x)
        ctx.passes = passes
        ctx.save_for_backward(x, weight)
        return x @ weight.T

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        if ctx.needs_input_grad[1]:
            ctx.passes.to_weights += len(x)
        else:
            ctx.passes.to_images += len(x)
        return gradient @ weight, gradient.T @ x, None


class _Layer(nn.Linear):
    def __init__(self, passes: Passes) -> None:
        super().__init__(64, _WIDTH, bias=False)
        self.passes = passes

    def forward(self, x: Tensor) -> Tensor:
        return _Counting.apply(x, self.weight, self.passes)


class _Network(nn.Module):
    def __init__(self, passes: Passes) -> None:
        super().__init__()
        self.embedding_dim = _WIDTH
        self.body = nn.Sequential(nn.Flatten(), _Layer(passes), nn.BatchNorm1d(_WIDTH), nn.ReLU())
        self.head = nn.Linear(_WIDTH, _CLASSES)

    def forward(self, x: Tensor) -> Output:
        embedding = self.body(x)
        return Output(self.head(embedding), embedding)


def built(kind: Callable[..., Method], threat: ThreatModel, size: tuple[int, int, int] = (1, 8, 8)) -> Method:
    """A method with its own defaults in the middle of a run, past every warm-up."""
    images = torch.randint(256, (64, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    auxiliary = ImageData(images, torch.arange(64) % 3, ("a", "b", "c"))
    needed = {"auxiliary": auxiliary} if "auxiliary" in signature(kind).parameters else {}
    method = kind(threat, **needed)
    method.at_epoch(100, 200)
    return method


def count(kind: Callable[..., Method], regularizer: Callable[[int, int], Regularizer] | None = None) -> Passes:
    """Passes for each optimizer step of a method with its own defaults, alone or with a regularizer.

    >>> from protoat.methods import PGDAT
    >>> count(PGDAT)
    Passes(forwards=8.0, to_images=7.0, to_weights=1.0)
    """
    network: nn.Module = _Network(Passes()).train()
    objective = Objective(built(kind, Linf(0.1)), None if regularizer is None else regularizer(_CLASSES, _WIDTH))
    if isinstance(objective.method, Contrastive):
        network = objective.method.encoder(network)
    passes = next(part.passes for part in network.modules() if isinstance(part, _Layer))
    objective.prepare(network)
    for _ in range(2):  # what is done once in a run is done with the first batch
        passes.forwards = passes.to_images = passes.to_weights = 0
        images, index = torch.rand(_BATCH, 1, 8, 8), torch.arange(_BATCH)
        for terms in objective.losses(network, images, index % _CLASSES, Origin(index)):
            terms.total.backward()
    seen = _BATCH * objective.updates_per_batch
    return Passes(passes.forwards / seen, passes.to_images / seen, passes.to_weights / seen)
