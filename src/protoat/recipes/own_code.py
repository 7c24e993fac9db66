"""User code named on the command line or by `trust=`, and where it is imported from."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

from protoat.errors import UserError
from protoat.storage.parsing import parse_yaml

# Keys of a recipe whose value is a class or a function.
CLASS_KEYS = (
    "data",
    "model",
    "head",
    "method",
    "regularizer",
    "modes",
    "optimizer",
    "schedule",
    "averaging",
    "weighting",
    "auxiliary",
    "loss",
)
# Arguments of data that are places of files and names which users give, never code.
FREE_KEYS = ("root", "path", "classes", "background", "name", "subset", "image", "label", "mode")
_NAMING = (*CLASS_KEYS, "trust", "attack", "attacks")
_TRUSTED: ContextVar[frozenset[str]] = ContextVar("trusted", default=frozenset())


def trusted() -> frozenset[str]:
    """Dotted names that the user has named, which a recipe may therefore hold."""
    return _TRUSTED.get()


@contextmanager
def trusting(names: Collection[str]) -> Iterator[None]:
    """Lets recipes that are read meanwhile name this code too, beside what encloses it.

    Args:
        names: dotted names, such as ``mymodels.Net``.

    Raises:
        ValueError: one is no dotted name.

    >>> with trusting(["mymodels.Net"]):
    ...     sorted(trusted())
    ['mymodels.Net']
    """
    if isinstance(names, str):
        raise UserError(f"trust={names!r} is one text; write a list of dotted names: trust=[{names!r}]")
    for name in names:
        if not is_dotted(name):
            raise UserError(f"trust {name!r} is no dotted name; write package.module.Class, such as mymodels.Net")
    token = _TRUSTED.set(_TRUSTED.get() | frozenset(names))
    try:
        yield
    finally:
        _TRUSTED.reset(token)


def named_in(args: Sequence[str]) -> list[str]:
    """The code that the arguments of a command name themselves: what the user wrote is the user's word.

    >>> named_in(["--trust=other.Method", "--model", "mymodels:Net", "my.run", "--data.root", "a.b"])
    ['other.Method', 'mymodels.Net']
    """
    option, found = "", []
    for arg in args:
        value: str | None = arg
        if arg.startswith("--"):
            option, equals, text = arg[2:].partition("=")
            value = text if equals else None
        first, *inner = option.split(".")
        if value is not None and first in (CLASS_KEYS if inner else _NAMING) and not (inner and inner[-1] in FREE_KEYS):
            found += [value] if option == "trust" else _dotted_in(value)
        if value is not None and option != "attacks":
            option = ""  # what follows is a run folder, which may have any name
    return found


@contextmanager
def allowing_own_code(args: Sequence[str]) -> Iterator[None]:
    """Trusts what the arguments of a command name, and finds it in the working directory."""
    names = named_in(args)
    with trusting(names), working_directory_on_path() if names else nullcontext():
        yield


@contextmanager
def working_directory_on_path() -> Iterator[None]:
    """Looks for modules in the working directory too, after all other places."""
    if "" in sys.path:
        yield
        return
    sys.path.append("")
    try:
        yield
    finally:
        sys.path.remove("")


def is_dotted(name: object) -> bool:
    return isinstance(name, str) and "." in name and all(part.isidentifier() for part in name.split("."))


def _dotted_in(text: str) -> list[str]:
    """Dotted names in a value of the command line, which may be YAML."""
    text = re.sub(r"^(?!(timm|torchvision|transfer|HF):)([\w.]+):(\w+)$", r"\2.\3", text)
    if is_dotted(text):
        return [text]
    if not set("{[") & set(text):
        return []
    try:
        return [name for name in _texts(parse_yaml(text)) if is_dotted(name)]
    except ValueError:
        return []  # which its parser says


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for entry in value:
            yield from _texts(entry)
    elif isinstance(value, str):
        yield value
