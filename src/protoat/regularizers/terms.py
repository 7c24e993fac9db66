"""The metric term and the norm term of the objective (paper, Eq. 5), before they are weighted."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from protoat.errors import UserError
from protoat.functional.forward import output_of
from protoat.functional.precision import at_least_float32
from protoat.regularizers.base import Regularizer
from protoat.types import Forwards

DMLInput = Literal["adv", "clean", "both"]
NormOf = Literal["embedding", "weights"]


def metric_term(
    regularizer: Regularizer, model: nn.Module, x: Tensor, y: Tensor, forwards: Forwards, *, seen: DMLInput
) -> Tensor:
    """The regularizer on the embeddings of one step: adversarial ones, clean ones, or both as one batch."""
    adversarial = _embedding(forwards)
    if seen == "adv":
        return regularizer.term(model, x, y, forwards)
    clean = (output_of(model, x) if forwards.clean is None else forwards.clean).embedding
    return regularizer(clean, y) if seen == "clean" else regularizer.of_both(adversarial, clean, y)


def norm_term(of: NormOf, model: nn.Module, forwards: Forwards) -> Tensor:
    """Mean squared entry of the embeddings trained on, or sum of squares of the model's kernels."""
    if of == "embedding":
        return at_least_float32(_embedding(forwards)).square().mean()
    kernels = [at_least_float32(p).square().sum() for p in model.parameters() if p.dim() > 1 and p.requires_grad]
    return torch.stack(kernels).sum()


def _embedding(forwards: Forwards) -> Tensor:
    """The embeddings trained on, which a model that returns logits only does not have."""
    if not forwards.adv.embedding.shape[1]:
        raise UserError(
            "the model returns logits only, and a metric or norm term needs embeddings; "
            "wrap it: protoat.with_embedding(model, layer=...)"
        )
    return forwards.adv.embedding
