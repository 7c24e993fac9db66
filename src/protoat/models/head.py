"""Finds the linear head of a classifier."""

from __future__ import annotations

from torch import nn

from protoat.errors import UserError

__all__ = ["linear_head"]


def linear_head(model: nn.Module) -> nn.Linear:
    """The last linear layer of `model`: ``model.head`` of the package's own networks.

    Args:
        model: a classifier.

    Raises:
        ValueError: it has no linear layer.

    >>> linear_head(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))).out_features
    2
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    own = getattr(model, "head", None)
    if isinstance(own, nn.Linear):
        return own
    if not layers:
        raise UserError(f"{type(model).__name__} has no linear layer that could be its head")
    return layers[-1]
