"""Completes recipes of earlier versions with what was the only choice at their time."""

from __future__ import annotations

import inspect
from typing import Any

from protoat.recipes.choices import choices_of
from protoat.recipes.fingerprint import FIRST

# Arguments of regularizers that came later, with what was done before there were such.
_BEFORE = {"projection": None, "drop_below": None}


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
