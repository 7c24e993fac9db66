"""Flattens the metrics of an epoch and the settings of a run for trackers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from protoat.names import printable

_MOST = 256  # numbers of one list or mapping: a page of charts shows no more
_EVENTS = ("merged", "dropped", "head_merged")  # lists of what happened, of which the length counts


def numbers(line: Mapping[str, Any], class_names: Sequence[str] = ()) -> dict[str, float]:
    """The numbers of a line of ``metrics.jsonl``, nested ones behind ``name/``.

    Those of a list have their place as name, or that of their class where it is as long as there are classes. Of more
    than 256 in one list, or in one mapping that holds numbers alone, the least, the mean and the greatest are told.

    >>> numbers({"epoch": 1, "objective": {"usage": [[0.9, 0.1], [0.5, 0.5]], "merged": [[0, 1, 2]]}}, ("cat", "dog"))
    {'epoch': 1, 'objective/usage/cat/0': 0.9, 'objective/usage/cat/1': 0.1, 'objective/usage/dog/0': 0.5, \
'objective/usage/dog/1': 0.5, 'objective/merged': 1}
    """
    found: dict[str, float] = {}
    for key, value in line.items():
        name = printable(key)
        if key in _EVENTS and isinstance(value, Sequence):
            found[name] = len(value)
        elif isinstance(value, Mapping):
            plain = all(isinstance(each, int | float) for each in value.values())  # those of a parent are of many kinds
            inner = numbers(value, class_names)
            found |= {f"{name}/{key}": number for key, number in (_few(inner) if plain else inner).items()}
        elif isinstance(value, list):
            found |= {f"{name}/{place}": number for place, number in _few(dict(_of_list(value, class_names))).items()}
        elif isinstance(value, int | float):
            found[name] = value
    return found


def _of_list(values: list[Any], names: Sequence[str] = ()) -> Iterator[tuple[str, float]]:
    """The numbers of a list, and of the lists in it, by place."""
    for place, value in enumerate(values):
        name = printable(names[place]) if len(names) == len(values) else str(place)
        if isinstance(value, list):
            yield from ((f"{name}/{inner}", number) for inner, number in _of_list(value))
        elif isinstance(value, int | float):
            yield name, value


def _few(found: dict[str, float]) -> dict[str, float]:
    if len(found) <= _MOST:
        return found
    values = found.values()
    return {"least": min(values), "mean": sum(values) / len(values), "greatest": max(values)}


def plain_settings(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings on one level, as trackers take them: numbers, flags, and all else as text.

    >>> plain_settings({"threat": {"eps": 0.3}, "modes": None, "lr": [0.1, 0.2]})
    {'threat.eps': 0.3, 'modes': 'none', 'lr': '[0.1, 0.2]'}
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = prefix + printable(str(key))
        if isinstance(value, Mapping):
            found |= plain_settings(value, f"{name}.")
        elif isinstance(value, int | float):
            found[name] = value
        else:
            found[name] = "none" if value is None else printable(str(value))
    return found
