"""Messages that arise while a command runs spell arguments as its options."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from protoat.spelling import Spelling, number, spell_by

Options = Mapping[str, list[str]]


class AsOptions(Spelling):
    """The options of each part of a recipe that takes an argument; one that none takes stays as it is.

    Args:
        options: of a command, by argument; asked for when there is something to say.

    >>> spelling = AsOptions(lambda: {"merge_start": ["regularizer.merge_start"], "size": ["size"]})
    >>> spelling.argument("merge_start"), spelling.argument("steps")
    ('--regularizer.merge_start', 'steps')
    >>> print(spelling.setting("merge_start", 0), spelling.setting("size", [1, 2]), spelling.setting("steps", 3))
    --regularizer.merge_start 0 --size '[1, 2]' steps=3
    """

    between = " "

    def __init__(self, options: Callable[[], Options]) -> None:
        self.options = options

    def argument(self, name: str) -> str:
        return " or ".join(f"--{option}" for option in self.options().get(name, [])) or super().argument(name)

    def setting(self, name: str, value: Any) -> str:
        options = [f"--{option} {shlex.quote(_word(value))}" for option in self.options().get(name, [])]
        return " or ".join(options) or super().setting(name, value)


def advise(options: Callable[[], Options]) -> None:
    """Messages name these options from now on, see `AsOptions`."""
    spell_by(AsOptions(options))


def _word(value: Any) -> str:
    """A value as one types it."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else number(value) or repr(value)


def options_of_recipe(content: Mapping[str, object]) -> Options:
    """Options of each field of a recipe, and of each argument of the classes that it names.

    >>> content = {"seed": 0, "method": {"class_path": "protoat.methods.PGDAT", "init_args": {"steps": 7}}}
    >>> options_of_recipe(content)
    {'seed': ['seed'], 'method': ['method'], 'method.steps': ['method.steps'], 'steps': ['method.steps']}
    """
    found: dict[str, list[str]] = {key: [key] for key in content}
    for key, entry in content.items():
        own = entry.get("init_args", {} if "class_path" in entry else entry) if isinstance(entry, Mapping) else {}
        for name in own if isinstance(own, Mapping) else ():
            found[f"{key}.{name}"] = [f"{key}.{name}"]
            if name not in content:
                found.setdefault(name, []).append(f"{key}.{name}")
    return found


def options_in(words: Sequence[str]) -> Options:
    """The options among the words of a command, as of a recipe that cannot be read.

    >>> options_in(["--regularizer.tau=0.2", "--seed", "1"])
    {'regularizer.tau': ['regularizer.tau'], 'tau': ['regularizer.tau'], 'seed': ['seed']}
    """
    found: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            option = word[2:].partition("=")[0]
            for key in dict.fromkeys((option, option.rpartition(".")[2])):
                found.setdefault(key, []).append(option)
    return found


def options_of_data() -> Options:
    """Options of a command that takes ``--data``.

    >>> options_of_data()["image_size"]
    ['data.image_size']
    """
    from protoat.recipes.choices import choices_of

    taken = [name for kind in choices_of("data").values() for name in inspect.signature(kind or object).parameters]
    return {key: [f"data.{name}"] for name in taken for key in (name, f"data.{name}")}
