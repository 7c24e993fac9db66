"""Loads the images that a recipe chooses, and describes them for the record of the run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

from protoat.data import ImageData, long_tailed, regroup, split_validation
from protoat.data.cache import MixedSizesError
from protoat.errors import UserError
from protoat.recipes.recipe import Recipe
from protoat.runs.store import check_data
from protoat.spelling import argument, setting

logger = logging.getLogger(__name__)


def load_images(recipe: Recipe, split: Literal["train", "test"]) -> ImageData:
    """A split of the recipe's data, regrouped."""
    recipe.data.labelled = not recipe.pretrains
    data = recipe.data.load(split)
    return data if recipe.groups is None else regroup(data, recipe.groups)


def training_images(recipe: Recipe) -> tuple[ImageData, ImageData | None]:
    """The images that a run trains on, and those it holds out."""
    images = _drawn(load_images(recipe, "train"), recipe)
    own = None if recipe.pretrains else recipe.data.load_validation()
    if own is not None:  # images that the data set sets apart for this, in place of some of train
        return images, own if recipe.groups is None else regroup(own, recipe.groups)
    if not recipe.validation_size:
        return images, None
    try:
        return split_validation(images, recipe.validation_size, recipe.seed)
    except ValueError as error:
        raise UserError(f"{argument('validation_size')}: {error}, or 0 to hold out none") from error


def fitting_validation_size(recipe: Recipe) -> int:
    """How many images to hold out where nobody has said: as the recipe has it, at most a fifth of those there are."""
    size, data = recipe.validation_size, recipe.data
    if not size or not data.available() or data.load_validation() is not None:
        return size
    return min(size, len(_drawn(load_images(recipe, "train"), recipe)) // 5)


def mixed_sizes(recipe: Recipe) -> str | None:
    """Two pictures of different sizes, where the recipe does not say to which size all are brought."""
    if recipe.data.available():
        try:
            load_images(recipe, "train")
        except MixedSizesError as error:
            return error.found
    return None


def _drawn(images: ImageData, recipe: Recipe) -> ImageData:
    """Those of the training images that the recipe asks for."""
    if recipe.long_tail is not None:
        images = long_tailed(images, recipe.long_tail, recipe.seed)
    count = recipe.train_size
    if count is None or count == len(images):
        return images
    if count > len(images):
        raise UserError(
            f"{setting(train_size=count)} of {len(images)} training images; write at most that, or none for all"
        )
    return split_validation(images, count, recipe.seed)[1]


def check_images(recipe: Recipe, folder: Path) -> None:
    """Refuses images that are not those of a run, as `train` does when it resumes one; says where there are none.

    Raises:
        ValueError: says what has changed.
    """
    if recipe.data.available():
        check_data(folder, data_facts(*training_images(recipe)))
    else:
        logger.warning("the images of %s are not compared: %s", folder, recipe.data.not_found())


def data_facts(images: ImageData, validation: ImageData | None) -> dict[str, Any]:
    """What ``run.json`` says of the images that a run trains on and holds out."""
    return {
        "num_classes": images.num_classes,
        "shape": list(images.shape),
        "class_names": list(images.class_names),
        "mode_names": list(images.mode_names),
        "train_images": len(images),
        "validation_images": 0 if validation is None else len(validation),
        "data_sha256": [part.digest() for part in (images, validation) if part is not None],
    }
