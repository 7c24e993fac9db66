"""Refuses a last batch of one image under batch norm before training begins."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import BatchSampler, DataLoader

from protoat.errors import UserError
from protoat.functional.preserve import preserve_modes
from protoat.training.learner import Learner


def smallest_batch(loader: Any) -> int | None:
    """Images in the smallest batch of a loader, where it can be known without reading it.

    >>> smallest_batch(DataLoader(torch.zeros(5, 1), batch_size=2))
    1
    """
    if isinstance(loader, DataLoader):
        sampler = loader.batch_sampler
        if type(sampler) is not BatchSampler:
            return None
        size, drop_last = sampler.batch_size, sampler.drop_last
        images = len(sampler.sampler)  # type: ignore[arg-type] # the loader has a length
    elif hasattr(loader, "data") and hasattr(loader, "world_size"):  # ImageLoader
        size, drop_last, images = loader.batch_size, loader.drop_last, len(loader.data) // loader.world_size
    else:
        return None
    return int(size if drop_last or images % size == 0 else images % size)


def check_single_image(loader: Any, images: Tensor, learner: Learner) -> None:
    """Refuses batches of one image where batch norm cannot train on it.

    Args:
        loader: of the training images.
        images: (B, ...), a first batch.

    Raises:
        ValueError: names the layer.
    """
    objective = learner.objective
    if objective.method.labelled and smallest_batch(loader) == 1:
        image = images[:1].to(learner.accelerator.device)
        _check(learner.unwrapped, image, learner.modes.learning, objective.regularizer)


def _check(
    model: nn.Module, image: Tensor, learning: Collection[nn.Module], regularizer: nn.Module | None = None
) -> None:
    """Refuses a model with a batch norm that sees one value of each channel when it is given one image.

    Args:
        image: (1, ...); one forward in eval mode, which changes nothing.
        learning: the modules that train in train mode.
        regularizer: sees embeddings, so that each batch norm in it sees one value of each channel.

    Raises:
        ValueError: names the layer.
    """
    parts = () if regularizer is None else regularizer.named_modules()
    alone = [f"regularizer.{name}" for name, part in parts if isinstance(part, _BatchNorm) and part.training]
    hooks = [
        module.register_forward_pre_hook(
            lambda _, inputs, name=name: alone.append(name) if inputs[0].numel() == inputs[0].shape[1] else None
        )
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module in learning
    ]
    try:
        if hooks:
            with preserve_modes(model), torch.no_grad():
                for module in model.modules():
                    module.training = False
                model(image)
    finally:
        for hook in hooks:
            hook.remove()
    if alone:
        raise UserError(
            f"a batch of an epoch holds one image, and of one image batch norm {alone[0]!r} has one value a channel, "
            "which has no variance; pass drop_last=True or another batch_size"
        )
