"""Messages of the library name arguments; on the command line they name its options."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Callable, Mapping, Sequence

Options = Mapping[str, list[str]]

_VALUE = r"(?:'[^']*'|\[[^\]]*\]|[^\s;,()]+)"
_SETTING = rf"[a-z][\w.]*={_VALUE}"
# Where a message speaks of settings: at its beginning, in its advice, in brackets of their own; never inside a call.
_PLACE = r"(?:^|(?<=\bwrite )|(?<=\bor )|(?<=: )|(?<= \())"
_SETTINGS = re.compile(rf"{_PLACE}{_SETTING}(?:(?:,| and) {_SETTING})*(?![\w(])")
_NAME = re.compile(r"(?<![\w./'\"-])[a-z]+[_.][\w.]*\w(?![\w./'\"=(-])|(?<=\bwrite )[a-z]+(?= (?:of|below) )")

_known: list[Callable[[], Options]] = []


def advise(options: Callable[[], Options] | None) -> None:
    """What `in_options` knows from now on; it is asked for when there is something to say. None is nothing."""
    _known[:] = [] if options is None else [options]


def in_options(message: str) -> str:
    """A message in which settings are said as one writes them for the command that runs.

    An argument that several parts of a recipe take is named for each of them; one that none takes stays as it is.

    >>> advise(lambda: {"merge_start": ["regularizer.merge_start"], "size": ["size"]})
    >>> print(in_options("never merge (merge_start=2); write merge_start=0 and size=[1, 2], or steps=3"))
    never merge (--regularizer.merge_start 2); write --regularizer.merge_start 0 --size '[1, 2]', or steps=3
    >>> print(in_options("write merge_start of at most 5"))
    write --regularizer.merge_start of at most 5
    >>> print(in_options("SoftTriple(merge_start=2) is no number"))
    SoftTriple(merge_start=2) is no number
    >>> advise(None)
    """
    if not _known or not (_SETTINGS.search(message) or _NAME.search(message)):
        return message
    options = _known[0]()

    def named(key: str, value: str | None = None) -> str:
        end = "" if value is None else f" {shlex.quote(value.strip(chr(39)))}"
        return " or ".join(f"--{option}{end}" for option in options[key])

    def settings(found: re.Match[str]) -> str:
        pairs = [pair.split("=", 1) for pair in re.findall(_SETTING, found[0])]
        if any(key not in options for key, _ in pairs):
            return found[0]
        joined = re.sub(_SETTING, lambda pair: named(*pair[0].split("=", 1)), found[0])
        return joined.replace(" and --", " --") if message[: found.start()].endswith(("write ", "or ")) else joined

    message = _SETTINGS.sub(settings, message)
    return _NAME.sub(lambda found: named(found[0]) if found[0] in options else found[0], message)


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
