"""The allow-list of names in recipes from outside: protoat's own and what the user trusts.

A parser imports whatever text stands where a class or a function may stand, and calls it. So a recipe is looked at as
plain values before: every text in it is the name of a choice of ours, a word, a number or the place of files. All else
is refused unless the user has named it, see `protoat.recipes.own_code`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from typing import Any

from protoat.errors import UserError
from protoat.functional import losses
from protoat.names import nearest
from protoat.recipes.choices import CLASSES, HOMES, choices_of
from protoat.recipes.own_code import CLASS_KEYS, FREE_KEYS, is_dotted, trusted

# Keys whose values are taken as they are, never as YAML: places of files, and names that users give.
_FREE = re.compile(rf"((data|auxiliary)\.({'|'.join(FREE_KEYS)})|initialise\.(run|weights)|modes\.encoder|model\.name)")
_KEY = re.compile(r"(?!(.*\.)?(help$|__))[\w.$]+\+?", re.ASCII)
# What a parser that reads a text as YAML once more can take for nothing but this text: no quotes, brackets or colons.
_PLAIN = re.compile(r"[\w ./~+,-]*")
_MOST_KEYS = 1000  # beside those of groups; a parser looks for each among all others
_NUMBER = re.compile(r"[+-]?[\d._]+([eE][+-]?\d+)?(/[\d._]+)?", re.ASCII)
# Values that are keys and values; a text in their place would be the path of a file that has these.
_GROUPS = ("threat", "evaluation_threat", "augment", "initialise", "view")


@cache
def allowed_names(key: str) -> frozenset[str]:
    """Every way to name what `key` may hold, short and dotted.

    >>> sorted(allowed_names("loss"))[0], "torch.optim.SGD" in allowed_names("optimizer")
    ('protoat.functional.losses.cross_entropy', True)
    """
    if key == "loss":
        return frozenset(f"{losses.__name__}.{name}" for name in losses.__all__ if callable(getattr(losses, name)))
    found = {**choices_of(key), **choices_of(key, pretrains=True)}
    homes = (*HOMES, *CLASSES[key][1])
    names = set()
    for name, item in found.items():
        if item is not None:
            exported = [f"{home.__name__}.{name}" for home in homes if vars(home).get(name) is item]
            names |= {name, f"{item.__module__}.{item.__qualname__}", *exported}
            names |= {f"protoat.{name}" for home in HOMES if vars(home).get(name) is item}
    return frozenset(names)


def check_names(content: Any, source: str, *, keys: Collection[str]) -> None:
    """Refuses a recipe that names other code than ours and the user's; nothing is imported to see that.

    Args:
        content: of the recipe, as plain values.
        source: where it is from, for messages.
        keys: that a recipe may have.

    Raises:
        ValueError: says what it names, and how to allow it.
    """
    if not isinstance(content, Mapping):
        return  # which its parser says
    if (count := _count({key: entry for key, entry in content.items() if key != "groups"})) > _MOST_KEYS:
        raise UserError(f"{source} has {count} keys, and {_MOST_KEYS} are more than any recipe needs")
    for key in content:
        first = str(key).partition(".")[0].rstrip("+")
        if first not in keys:
            raise UserError(f"{source}: {_short(first)} is unknown; {nearest(first, keys)}")
    found = [(key, text) for key, text in dict.fromkeys(_foreign(content)) if text not in trusted()]
    if not found:
        return
    key, text = found[0]
    name, kind = _short(text), key.rpartition(".")[2]
    if kind in CLASS_KEYS and "." not in text:
        raise UserError(f"{source}: {kind} {name} is unknown; {nearest(text, _short_names(kind))}")
    if not is_dotted(text):
        raise UserError(f"{source}: {_short(key) if key else 'key'}={name} is not valid in a recipe")
    names = list(dict.fromkeys(text for _, text in found if is_dotted(text)))
    raise UserError(
        f"{source} names {' and '.join(names)} ({key}), which a recipe may not: it runs no code but protoat's own and "
        f"what you name yourself. If you know this code, write {' '.join(f'--trust {name}' for name in names)}; in "
        f"Python trust={names}"
    )


def foreign_names(content: Any) -> list[str]:
    """Dotted names in plain values that are not ours.

    >>> foreign_names({"method": {"class_path": "FreeAT"}, "model": "mymodels.Net"})
    ['mymodels.Net']
    """
    return list(dict.fromkeys(text for _, text in _foreign(content) if is_dotted(text)))


def without_downloads(content: Any) -> Any:
    """The same values, but nothing is to be downloaded: a stranger would choose the place, and what is overwritten.

    >>> without_downloads({"data": {"class_path": "MNIST", "init_args": {"download": True}}})
    {'data': {'class_path': 'MNIST', 'init_args': {}}}
    """
    if not isinstance(content, Mapping):
        return content
    return {
        key: without_downloads(entry)
        for key, entry in content.items()
        if isinstance(entry, Mapping | list) or str(key).rpartition(".")[2].rstrip("+") != "download"
    }


def _foreign(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Each text that is neither ours nor plainly harmless, with its key."""
    if isinstance(value, Mapping):
        for name, entry in value.items():
            if not _KEY.fullmatch(str(name)) and not key.startswith(".groups"):
                yield key.strip("."), f"{name}:"  # which no --trust allows
            yield from _foreign(entry, f"{key}.{name}")
    elif isinstance(value, list | tuple | set):
        for entry in value:
            yield from _foreign(entry, key)
    elif isinstance(value, str):
        parts = [part.rstrip("+") for part in key.split(".") if part and part not in ("init_args", "dict_kwargs")]
        named = bool(parts) and parts[-1] == "class_path"
        parts = parts[: len(parts) - named]
        if not _is_harmless(value, parts, named=named):
            yield ".".join(parts), value


def _is_harmless(text: str, parts: list[str], *, named: bool) -> bool:
    """Whether a text is ours, or cannot be taken for code.

    Args:
        text: a value.
        parts: of its key, without those that only say that what follows are arguments.
        named: whether it stands under ``class_path``.
    """
    kind = (parts or [""])[-1]
    if text == "none" and not named:
        return True
    if text.startswith("-") and not _NUMBER.fullmatch(text):
        return False  # on a command line it would be an option
    if parts[:1] == ["groups"] and not named:
        return True  # names of classes, among which "model" may be
    if kind in CLASS_KEYS and parts[:-1] != ["initialise"]:
        return text in allowed_names(kind)
    if named or kind in _GROUPS:
        return False
    return bool(_FREE.fullmatch(".".join(parts[-2:]))) or (bool(_PLAIN.fullmatch(text)) and not is_dotted(text.strip()))


def _count(value: Any) -> int:
    """How many keys there are, inner ones included."""
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return len(inner) * isinstance(value, Mapping) + sum(map(_count, inner))


def _short_names(kind: str) -> list[str]:
    return sorted(name for name in allowed_names(kind) if "." not in name) or sorted(allowed_names(kind))


def _short(text: str) -> str:
    """A text from outside for a message: on one line, without control characters, not too long."""
    return repr(text if len(text) <= 60 else f"{text[:60]}...")
