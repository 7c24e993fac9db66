"""The network of a recipe, as it builds it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from protoat.errors import UserError
from protoat.models import MultiPrototypeHead
from protoat.models.head import classifier_head, head_sizes, with_head
from protoat.recipes.recipe import Recipe

__all__ = ["build_network"]


def build_network(
    recipe: Recipe, num_classes: int, shape: tuple[int, int, int], prototypes_per_class: list[int] | None = None
) -> nn.Module:
    """The recipe's network for images of `shape` (C, H, W).

    Args:
        recipe: what chooses it.
        num_classes: logits of an image.
        shape: (C, H, W) of the images.
        prototypes_per_class: what modes need of a head; the recipe's own comes first.

    Raises:
        ValueError: images that are no squares, or what the user's own code raises.
    """
    channels, height, width = shape
    if height != width:
        raise UserError(f"images are {height}x{width}; models expect squares, so write data.image_size")
    try:
        model = recipe.model(num_classes, channels, height)
        head: Callable[[int, int], MultiPrototypeHead] | None = recipe.head
        if head is None and prototypes_per_class is not None:
            head = partial(MultiPrototypeHead, prototypes_per_class=prototypes_per_class)
        return model if head is None else with_head(model, head(*head_sizes(classifier_head(model))))
    except Exception as error:
        if not recipe.trust:
            raise
        raise UserError(f"the model cannot be built, it raised {type(error).__name__}: {error}") from error
