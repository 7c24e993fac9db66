"""Checks of a model's behaviour: determinism, batch independence, dtype."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from protoat.attacks import AttackLoss
from protoat.attacks.examination import differing
from protoat.attacks.gradient import input_gradient
from protoat.attacks.mode import attacking
from protoat.functional.forward import output_of
from protoat.functional.precision import at_least_float32
from protoat.functional.preserve import preserve_random_state


@torch.no_grad()
def eval_logits(model: nn.Module, x: Tensor) -> Tensor:
    """Logits (B, C) in eval mode, in float32 or wider; the model's modes and the random state stay as they are."""
    with attacking(model), preserve_random_state(x.device):
        return _logits(model, x)


def eval_gradient(model: nn.Module, x: Tensor, y: Tensor, loss: AttackLoss) -> Tensor:
    """Gradient of `loss` at the images in eval mode, in their shape; modes and random state stay as they are.

    >>> from protoat.functional.losses import margin
    >>> eval_gradient(nn.Flatten(), torch.zeros(1, 1, 1, 2), torch.tensor([0]), margin)
    tensor([[[[-1.,  1.]]]])
    """
    with attacking(model), preserve_random_state(x.device), torch.enable_grad():
        return input_gradient(lambda images: output_of(model, images), x, y, loss).gradient


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    return at_least_float32(output_of(model, x).logits)


@torch.no_grad()
def unlike_itself(model: nn.Module, x: Tensor) -> Tensor:
    """Images, (B,) bool, that two forwards in eval mode answer differently: the model is random.

    >>> unlike_itself(nn.Sequential(nn.Flatten(), nn.Dropout()), torch.ones(2, 1, 4, 4))
    tensor([False, False])
    """
    with attacking(model), preserve_random_state(x.device):
        return differing(_logits(model, x), _logits(model, x))


def unlike_in_company(model: nn.Module, x: Tensor) -> Tensor:
    """Images, (B,) bool, whose logits in eval mode depend on which other images are in the batch.

    >>> class BatchNorm(nn.BatchNorm2d):
    ...     def forward(self, x):
    ...         return nn.functional.batch_norm(x, None, None, training=True)
    >>> unlike_in_company(nn.Sequential(BatchNorm(1), nn.Flatten()), torch.tensor([1.0, 3.0]).view(2, 1, 1, 1))
    tensor([True, True])
    """
    # Batches of one size, so that no other kernel is chosen for one of them.
    company = (x, x[:1].expand_as(x))
    among = [eval_logits(model, torch.cat([x, others]))[: len(x)] for others in company]
    return differing(*among)


@torch.no_grad()
def unlike_eval_mode(model: nn.Module, x: Tensor) -> Tensor:
    """Images, (B,) bool, that the model answers otherwise in the mode it is in than in eval mode.

    Buffers, such as running statistics, and the random state are as before afterwards. An image alone is shown twice,
    since batch norm in train mode refuses a batch of one.

    >>> net = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten())
    >>> unlike_eval_mode(net.train(), torch.rand(2, 1, 4, 4)), unlike_eval_mode(net.eval(), torch.rand(2, 1, 4, 4))
    (tensor([True, True]), tensor([False, False]))
    """
    images = x if len(x) > 1 else torch.cat([x, x])
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        with preserve_random_state(x.device):
            as_it_is = _logits(model, images)
    finally:
        for buffer, before in kept:
            buffer.copy_(before)
    return differing(eval_logits(model, images), as_it_is)[: len(x)]
