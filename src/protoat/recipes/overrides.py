"""Changes of a recipe: laid over its plain values, written as options of a command, and words that stand for such."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import yaml

_ONE_VALUE = ("groups",)  # keys whose mapping is a value of its own


def overlay(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """The first mapping with the values of each later one in place of its own; inner mappings are merged alike.

    A mapping that names another class replaces the one below, whose arguments are not for that class.

    >>> base = {"method": {"class_path": "PGDAT", "init_args": {"steps": 7}}, "seed": 0}
    >>> overlay(base, {"method": {"init_args": {"ramp_epochs": 1}}})["method"]["init_args"]
    {'steps': 7, 'ramp_epochs': 1}
    >>> overlay(base, {"method": {"class_path": "FreeAT"}}, {"seed": 1})
    {'method': {'class_path': 'FreeAT'}, 'seed': 1}
    """
    found: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = found.get(key)
            merges = isinstance(below, Mapping) and isinstance(value, Mapping) and not _replaces(key, value, below)
            found[key] = overlay(found[key], value) if merges else value
    return found


def options(overrides: Mapping[str, Any]) -> list[str]:
    """The options of a command that say the same.

    >>> options({"method": {"class_path": "FreeAT", "init_args": {"replays": 8}}, "schedule": None})
    ['--method', 'FreeAT', '--method.replays', '8', '--schedule', 'none']
    """
    return [word for key, value in overrides.items() for word in _options(f"--{key}", value)]


def _replaces(key: str, above: Mapping[str, Any], below: Mapping[str, Any]) -> bool:
    return key in _ONE_VALUE or ("class_path" in above and above["class_path"] != below.get("class_path"))


def _options(option: str, value: Any) -> Iterator[str]:
    if not isinstance(value, Mapping) or option.removeprefix("--") in _ONE_VALUE:
        yield from (option, _word(value))
        return
    if "class_path" in value:
        yield from (option, str(value["class_path"]))
    inner = value.get("init_args", {}) if {"class_path", "init_args"} & value.keys() else value
    for name, entry in inner.items():
        yield from (f"{option}.{name}", _word(entry))


def _word(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, str):
        return value
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()


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
