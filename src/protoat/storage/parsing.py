"""Parses JSON and YAML from outside within limits of size, depth and aliases."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import yaml

from protoat.errors import UserError, in_a_line

MOST_BYTES = 32 * 2**20  # of a record; that of a million images under ten attacks has a third of this
_MOST_YAML = 2**18
_DEEPEST = 64
_MOST_VALUES = 100_000  # of a YAML document with its aliases written out
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml, where it is there, is much faster
_OPENS = (yaml.MappingStartEvent, yaml.SequenceStartEvent)
_CLOSES = (yaml.MappingEndEvent, yaml.SequenceEndEvent)


def parse_json(content: bytes | str) -> Any:
    """What JSON holds.

    Raises:
        ValueError: no JSON, not UTF-8, too long, nested too deeply, or a key that an object has twice.

    >>> parse_json(b'{"epoch": 1}')
    {'epoch': 1}
    >>> parse_json('{"epoch": 1, "epoch": 2}')
    Traceback (most recent call last):
    protoat.errors.UserError: it has the key 'epoch' twice
    """
    if len(content) > MOST_BYTES:
        raise UserError(f"it is {len(content)} bytes long, and {MOST_BYTES} are allowed")
    text = decoded(content)
    try:
        value = json.loads(text, object_pairs_hook=_object)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise UserError(f"it is nested more than {_DEEPEST} levels deep") from None
    except UnicodeEncodeError as error:
        raise UserError("it holds half of a character (a lone surrogate)") from error
    check_depth(value)
    return value


def parse_yaml(content: bytes | str) -> Any:
    """What YAML holds.

    Raises:
        ValueError: no YAML, not UTF-8, too long, nested too deeply, too much by its aliases, or more than plain values.

    >>> parse_yaml("seed: 0")
    {'seed': 0}
    >>> parse_yaml("a: &a [*a]")
    Traceback (most recent call last):
    protoat.errors.UserError: an alias stands inside of what it repeats
    """
    if len(content) > _MOST_YAML:
        raise UserError(f"it is {len(content)} bytes long, and {_MOST_YAML} are allowed")
    text = decoded(content)
    try:
        _check_events(yaml.parse(text, Loader=_LOADER))
        value = yaml.load(text, Loader=_LOADER)
    except yaml.YAMLError as error:
        raise UserError(no_yaml(error)) from error
    except UserError:
        raise
    except Exception as error:  # a tag on a value it does not suit, such as !!bool 3, ends in many kinds
        raise UserError(f"a value does not suit its tag ({type(error).__name__}: {error})") from error
    check_plain(value)
    return value


def decoded(content: bytes | str) -> str:
    """Text from UTF-8.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(content, str):
        return content
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"it is not UTF-8 text: byte {error.start} is {content[error.start]:#04x}") from error


def no_yaml(error: Exception) -> str:
    """Where a text stops being YAML, and why, in a line.

    >>> try:
    ...     yaml.safe_load("epochs: [1")
    ... except yaml.YAMLError as error:
    ...     no_yaml(error)
    "line 1, column 11: expected ',' or ']', but got '<stream end>'"
    """
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return in_a_line(error)
    return f"line {mark.line + 1}, column {mark.column + 1}: {getattr(error, 'problem', None) or 'not understood'}"


def check_depth(value: Any) -> None:
    """Refuses values nested too deeply for what walks through them.

    Raises:
        ValueError: it is.
    """
    level, depth = [value], 0
    while level := [inner for outer in level for inner in _inside(outer) if isinstance(inner, dict | list)]:
        depth += 1
        if depth >= _DEEPEST:
            raise UserError(f"it is nested more than {_DEEPEST} levels deep")


def check_plain(value: Any) -> None:
    """Refuses what JSON does not know, such as dates and sets, and keys of mappings that are no names or numbers.

    Raises:
        ValueError: names the kind.
    """
    level = [value]
    while level:
        for entry in level:
            if not isinstance(entry, dict | list | str | int | float | None):
                raise UserError(f"{entry!r} is of kind {type(entry).__name__}; write it in quotes")
            if isinstance(entry, dict):
                strange = next((key for key in entry if not isinstance(key, str | int | float | None)), None)
                if strange is not None:
                    raise UserError(f"the key {strange!r} is of kind {type(strange).__name__}; write it in quotes")
        level = [inner for outer in level for inner in _inside(outer)]


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise UserError(f"it has the key {next(name for name in names if names.count(name) > 1)!r} twice")
    return found


def _check_events(events: Iterable[yaml.Event]) -> None:
    """Refuses depth, and aliases that stand for too much, before anything is built."""
    sizes: dict[str, int] = {}  # of what an anchor names, its own aliases written out
    open_: list[tuple[str | None, int]] = []  # anchor, and how much there was before
    total = 0
    for event in events:
        anchor = getattr(event, "anchor", None)
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == name for name, _ in open_):
                raise UserError("an alias stands inside of what it repeats")
            total += sizes.get(str(anchor), 1)
        elif isinstance(event, _OPENS):
            open_.append((anchor, total))
            total += 1
            if len(open_) > _DEEPEST:
                raise UserError(f"it is nested more than {_DEEPEST} levels deep")
        elif isinstance(event, _CLOSES):
            name, before = open_.pop()
            if name is not None:
                sizes[name] = total - before
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if anchor is not None:
                sizes[anchor] = 1
        if total > _MOST_VALUES:
            raise UserError(f"it holds more than {_MOST_VALUES} values, aliases written out")
