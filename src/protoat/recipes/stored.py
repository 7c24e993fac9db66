"""Recipes that runs store: one that begins must come back, and those of earlier versions are completed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from protoat.errors import UserError
from protoat.recipes.choices import choices_of
from protoat.recipes.fingerprint import FIRST
from protoat.recipes.recipe import KEYS, Recipe

# Arguments of regularizers that came later, with what was done before there were such.
_BEFORE = {"projection": None, "drop_below": None}
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


def completed(content: Any) -> Any:
    """The plain values of a recipe; where a run stored it, with what its version did for what it does not say.

    A stored recipe says everything that its version knew, all fields of the first recipes among them.

    >>> stored = dict.fromkeys(FIRST) | {"regularizer": {"class_path": "SoftTriple", "init_args": {"tau": 0.2}}}
    >>> completed(stored)["regularizer"]["init_args"]
    {'tau': 0.2, 'projection': None, 'drop_below': None}
    """
    if not isinstance(content, dict) or not content.keys() >= set(FIRST):
        return content
    regularizer = content.get("regularizer")
    if not isinstance(regularizer, dict) or not isinstance(given := regularizer.get("init_args"), dict):
        return content
    kind = choices_of("regularizer").get(str(regularizer.get("class_path")).rpartition(".")[2])
    known = () if kind is None else inspect.signature(kind).parameters
    added = {name: value for name, value in _BEFORE.items() if name in known and name not in given}
    return {**content, "regularizer": {**regularizer, "init_args": {**given, **added}}} if added else content
