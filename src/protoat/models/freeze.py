"""Freezes all of a network but some layers, batch-norm statistics included."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from protoat.arguments import check_choice
from protoat.errors import UserError
from protoat.models.dual_bn import replaced
from protoat.models.head import classifier_head

LearningPart = Literal["all", "last_block", "head"]


class FrozenBatchNorm(nn.Module):
    """Batch norm that does in every mode what it does in eval mode, and never changes; its tensors keep their names.

    Args:
        norm: with running statistics.

    Raises:
        ValueError: it has none.
    """

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        if norm.running_mean is None:
            raise UserError("a batch norm without running statistics cannot be frozen")
        self.eps = norm.eps
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            value = getattr(norm, name)
            self.register_buffer(name, None if value is None else value.detach())

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def freeze_all_but(model: nn.Module, part: LearningPart) -> nn.Module:
    """`model`, changed in place, of which only a part learns.

    Args:
        model: a classifier.
        part: ``"all"`` freezes nothing; ``"head"`` leaves the head; ``"last_block"`` also what stands
            before it: the last child with weights of ``model.features``, or else of the model; a ResNet's fourth stage.

    Raises:
        ValueError: an unknown part; no block to leave.

    >>> from protoat.models import LeNet
    >>> [name for name, p in freeze_all_but(LeNet(2), "head").named_parameters() if p.requires_grad]
    ['head.weight', 'head.bias']
    """
    check_choice(LearningPart, finetune=part)
    if part == "all":
        return model
    learning = [classifier_head(model)] if part == "head" else [classifier_head(model), _last_block(model)]
    kept = {module for one in learning for module in one.modules()}
    for module in model.modules():
        if module not in kept:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
    return replaced(model, _BatchNorm, lambda norm: norm if norm in kept else FrozenBatchNorm(norm))


def _last_block(model: nn.Module) -> nn.Module:
    head = classifier_head(model)
    body = getattr(model, "features", model)
    blocks = [block for block in body.children() if any(True for _ in block.parameters()) and block is not head]
    if not blocks or head in blocks[-1].modules():
        raise UserError(f"{type(model).__name__} has no block in front of its head; write finetune all or head")
    return blocks[-1]
