"""Checks that a recipe comes back unchanged from its text."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from protoat.errors import UserError
from protoat.recipes.recipe import KEYS, Recipe

_ADVICE = "no run could be read from its recipe again; write letters, digits, spaces and ./~+,- alone"


def check_comes_back(recipe: Recipe, read: Callable[[], Recipe]) -> None:
    """Refuses arguments of the user's own classes that a stored recipe would not give back.

    Args:
        recipe: of a run that begins.
        read: reads it from its text.

    Raises:
        ValueError: names the argument.
    """
    try:
        later = _plain_arguments(read())
    except ValueError as error:
        raise UserError(f"{error}: {_ADVICE}") from error
    for name, value in _plain_arguments(recipe).items():
        if later.get(name) != value:
            raise UserError(f"{name}={value!r} would come back as {later.get(name)!r}: {_ADVICE}")


def _plain_arguments(recipe: Recipe) -> dict[str, Any]:
    """Texts, numbers, lists and mappings among the arguments of the classes of a recipe."""
    parts = {name: getattr(recipe, name) for name in KEYS}
    return {
        f"{name}.{key}": value
        for name, part in parts.items()
        if isinstance(part, partial)
        for key, value in part.keywords.items()
        if value is None or isinstance(value, str | bool | int | float | list | dict)
    }
