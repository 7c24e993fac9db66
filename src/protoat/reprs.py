"""Text that rebuilds an object: the call of its constructor, with every argument."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any


def constructor_repr(obj: object, *holders: object, **given: Any) -> str:
    """``Class(argument, name=argument, ...)``; in the namespace of protoat it gives the same object again.

    An argument that is not kept anywhere is shown as ``...``.

    Args:
        obj: keeps the arguments of its constructor under their own names; a flag may be kept as what it switches on.
        holders: parts of it that keep others.
        given: values of arguments that are kept under another name.

    >>> class Line:
    ...     def __init__(self, slope, *, offset=0.0, solid=True, style=None):
    ...         self.slope, self.offset, self.solid = slope, offset, "a pen" if solid else None
    >>> constructor_repr(Line(2, offset=0.1))
    'Line(2, offset=0.1, solid=True, style=...)'
    """
    required, others = _arguments(obj, holders, given)
    return f"{type(obj).__name__}({_listed([*required.values()], others)})"


def factory(obj: object, *holders: object) -> partial[Any]:
    """What makes the object out of its required arguments alone, with all others filled in."""
    return partial(type(obj), **_arguments(obj, holders, {})[1])


def _arguments(
    obj: object, holders: tuple[object, ...], given: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments that have to be given, in order, and those that have a default or go by name."""
    required: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for name, parameter in inspect.signature(type(obj)).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        value = given[name] if name in given else _kept(name, (obj, *holders))
        value = bool(value) if isinstance(parameter.default, bool) else value
        first = parameter.default is parameter.empty and parameter.kind is not parameter.KEYWORD_ONLY
        (required if first else others)[name] = value
    return required, others


def _kept(name: str, holders: tuple[object, ...]) -> Any:
    found = (getattr(holder, name) for holder in holders if hasattr(holder, name))
    return next((value for value in found if not inspect.ismethod(value)), ...)


def _listed(required: Sequence[Any], others: Mapping[str, Any]) -> str:
    return ", ".join([*map(_text, required), *(f"{name}={_text(value)}" for name, value in others.items())])


def _text(value: Any) -> str:
    if isinstance(value, partial):
        text = f"functools.partial({_listed([value.func, *value.args], value.keywords)})"
    elif type(value) in (list, tuple):
        items = _listed(value, {})
        text = f"[{items}]" if type(value) is list else f"({items}{',' * (len(value) == 1)})"
    elif inspect.isclass(value) or inspect.isroutine(value):
        text = _name(value)
    elif value is ...:
        text = "..."
    else:
        text = " ".join(repr(str(value) if isinstance(value, Path) else value).split())
    return text


def _name(value: Any) -> str:
    """A class or a function by where it is; classes of protoat stand at its front door."""
    module, _, rest = value.__module__.partition(".")
    if module == "protoat":
        return value.__qualname__ if inspect.isclass(value) else f"{rest}.{value.__qualname__}"
    return f"{value.__module__}.{value.__qualname__}"
