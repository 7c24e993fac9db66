"""Expands words such as ``timm:resnet18`` to the options of a class and its argument."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise


def spelled_out(args: Sequence[str], prefixes: Mapping[str, Mapping[str, tuple[str, str]]]) -> list[str]:
    """Options in which such words are said as recipes say them.

    Args:
        args: words of a command line.
        prefixes: by option and prefix the class, and the option of the argument.

    >>> prefixes = {"--model": {"timm": ("TimmModel", "--model.name")}}
    >>> spelled_out(["--model", "timm:resnet18", "--seed", "1"], prefixes)
    ['--model', 'TimmModel', '--model.name', 'resnet18', '--seed', '1']
    >>> spelled_out(["--model=timm:resnet18"], prefixes)
    ['--model', 'TimmModel', '--model.name', 'resnet18']
    """
    begun = tuple(f"{option}=" for option in prefixes)
    words = [word for arg in args for word in (arg.split("=", 1) if arg.startswith(begun) else [arg])]
    found: list[str] = []
    for option, word in pairwise(["", *words]):
        prefix, colon, name = word.partition(":")
        known = prefixes.get(option, {}).get(prefix) if colon else None
        found += [word] if known is None else [*known, name]
    return found
