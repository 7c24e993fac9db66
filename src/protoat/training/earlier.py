"""Renames the tensors of checkpoints written by earlier versions."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from protoat.methods import AWP, DAJAT, BiaMAT, Distillation, Method

_OWN = "objective.method."


def renamed(tensors: Mapping[str, Tensor], method: Method) -> dict[str, Tensor]:
    """The same tensors; what belonged to one process was ``objective.method.*``, without the names of submodules."""
    return {_name(key, method): value for key, value in tensors.items()}


def _name(key: str, method: Method) -> str:
    if not key.startswith(_OWN):
        return key
    name = key.removeprefix(_OWN)
    return f"process.{name}" if name.startswith("regularizer.") else f"process.method.{_within(name, method)}"


def _within(name: str, method: Method) -> str:
    if isinstance(method, AWP):
        return f"method.{_within(name, method.method)}"
    if isinstance(method, BiaMAT):
        return name if name == "threshold" else f"head.{name}"
    return {Distillation: "teacher.", DAJAT: "second."}.get(type(method), "") + name
