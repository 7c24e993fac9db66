"""The network of a recipe, as it builds it."""

from __future__ import annotations

from torch import nn

from protoat.errors import UserError
from protoat.models.head import classifier_head, head_sizes, with_head
from protoat.recipes.recipe import Recipe

__all__ = ["build_network"]


def build_network(recipe: Recipe, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """The recipe's network for images of `shape` (C, H, W).

    Raises:
        ValueError: images that are no squares, or what the user's own code raises.
    """
    channels, height, width = shape
    if height != width:
        raise UserError(f"images are {height}x{width}; models expect squares, so write data.image_size")
    try:
        model = recipe.model(num_classes, channels, height)
        if recipe.head is None:
            return model
        return with_head(model, recipe.head(*head_sizes(classifier_head(model))))
    except Exception as error:
        if not recipe.trust:
            raise
        raise UserError(f"the model cannot be built, it raised {type(error).__name__}: {error}") from error
