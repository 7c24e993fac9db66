"""Puts a model into the mode in which it is attacked and judged, and restores it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from torch import nn
from torch.nn.parameter import is_lazy

from protoat.errors import UserError
from protoat.functional.preserve import preserve_modes

#: Batch norm while attacking: running statistics, those of the batch, or the same with the running ones kept.
BatchNormMode = Literal["eval", "train", "train_frozen"]


def check_built(model: nn.Module) -> None:
    """Refuses a model with layers that have no weights yet.

    Raises:
        ValueError: such as a `LazyLinear` before its first batch.
    """
    unbuilt = [name for name, parameter in model.named_parameters() if is_lazy(parameter)]
    if unbuilt:
        raise UserError(
            f"the model has parameters without a size, as of LazyLinear: {unbuilt[0]} has no size before the first "
            "forward; show it one batch of images, then build the optimizer; and train it or load its weights, before "
            "it is attacked or measured"
        )


@contextmanager
def attacking(model: nn.Module, bn: BatchNormMode = "eval") -> Iterator[None]:
    """Puts `model` into attack mode and restores every module's mode and every ``requires_grad``, also on errors.

    Args:
        bn: ``"eval"`` uses running statistics; ``"train"`` uses batch statistics and moves the running ones, as do the
            scripts of Madry, Free-AT and Fast-AT; ``"train_frozen"`` uses batch statistics, the running ones stay.
            Everything else (dropout) is in eval mode throughout, and so is a batch norm that is in eval mode within a
            model in train mode, because its owner froze it.
    """
    # A frozen TorchScript has no mode left.
    modules = [module for module in model.modules() if hasattr(module, "training")]
    norms = [m for m in modules if isinstance(m, nn.modules.batchnorm._BatchNorm)] if bn != "eval" else []
    if getattr(model, "training", False):  # a layer that is in eval mode in a model that trains was frozen by its owner
        norms = [norm for norm in norms if norm.training]
    tracking = [m.track_running_stats for m in norms]
    parameters = [p for p in model.parameters() if p.requires_grad]
    check_built(model)
    with preserve_modes(model):
        try:
            for module in modules:
                module.training = False
            for parameter in parameters:
                parameter.requires_grad_(False)
            for module in norms:
                module.training = True
                if bn == "train_frozen":
                    module.track_running_stats = False
            yield
        finally:
            for module, track in zip(norms, tracking, strict=True):
                module.track_running_stats = track
            for parameter in parameters:
                parameter.requires_grad_(True)
