"""The recipes that come with the package, by name."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from protoat.errors import UserError
from protoat.names import nearest
from protoat.recipes.choices import choices_of
from protoat.storage.parsing import parse_yaml

_SHIPPED = Path(__file__).parent
_OVERLAYS = _SHIPPED / "methods"


def recipe_names() -> list[str]:
    """Names of the shipped recipes.

    >>> "cifar10-2" in recipe_names()
    True
    """
    return sorted(path.stem for path in _SHIPPED.glob("*.yaml"))


def overlay_names() -> list[str]:
    """Names of the recipes of methods and regularizers, which are laid over the recipe of a data set.

    >>> "trades" in overlay_names()
    True
    """
    return sorted(path.stem for path in _OVERLAYS.glob("*.yaml"))


@cache
def is_of_pretraining(name: str) -> bool:
    """Whether a shipped recipe is for ``protoat pretrain``; told without building it.

    >>> is_of_pretraining("mnist-acl"), is_of_pretraining("mnist-finetune")
    (True, False)
    """
    method = parse_yaml((_SHIPPED / f"{name}.yaml").read_text())["method"]["class_path"]
    return method in choices_of("method", pretrains=True)


def is_overlay(path: Path) -> bool:
    """Whether a shipped recipe holds the values of a method or regularizer only."""
    return path.parent == _OVERLAYS


def recipe_path(config: str) -> Path:
    """The file of a recipe, by the name of a shipped one or its own path.

    Raises:
        ValueError: there is none, with the nearest valid name.
    """
    path = Path(config)
    for folder, names in ((_SHIPPED, recipe_names()), (_OVERLAYS, overlay_names())):
        if config in names:
            return folder / f"{config}.yaml"
    if path.is_file():
        return path
    if path.suffix or len(path.parts) > 1:
        raise UserError(f"there is no recipe file {config}; names of shipped recipes: {', '.join(recipe_names())}")
    raise UserError(f"recipe {config!r} is unknown; {nearest(config, [*recipe_names(), *overlay_names()])}")
