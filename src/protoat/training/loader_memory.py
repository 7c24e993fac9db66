"""The state of a caller's loader between epochs: generators, samplers, its own `state_dict`."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import BuiltinMethodType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from protoat.training.nested import pack, unpack

_DEPTH, _WIDTH, _MOST = 8, 100, 10_000
_OPAQUE = (Tensor, np.ndarray, type, ModuleType, str, bytes, int, float, complex, bool, type(None))
_PLAIN = (bool, int, float, str, type(None))
# How generators give their state, and take it.
_GENERATORS: dict[type, tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]] = {
    torch.Generator: (lambda part: part.get_state(), lambda part, state: part.set_state(state)),
    np.random.Generator: (
        lambda part: part.bit_generator.state,
        lambda part, state: setattr(part.bit_generator, "state", state),
    ),
    np.random.RandomState: (lambda part: part.get_state(legacy=False), lambda part, state: part.set_state(state)),
    random.Random: (lambda part: part.getstate(), lambda part, state: part.setstate(state)),
}


def is_stateful(part: Any) -> bool:
    """Whether an object gives and takes its state as ``state_dict``; a tensor module's is of weights, not of order."""
    if isinstance(part, torch.nn.Module) or getattr(part, "use_stateful_dataloader", True) is False:
        return False
    return callable(getattr(part, "state_dict", None)) and callable(getattr(part, "load_state_dict", None))


class LoaderMemory:
    """The state of everything random or counting that can be reached from a loader.

    That is: generators of torch, NumPy and ``random``, wherever they are kept (in the loader, its samplers, the data
    set, its transforms); objects with ``state_dict`` and ``load_state_dict``; and, of samplers and loaders that are not
    torch's own, plain attributes that have changed since the run began.

    Args:
        loader: any iterable of batches; one with ``iterate`` begins where it is told, so nothing of it is kept.

    Raises:
        ValueError: a ``state_dict`` that no checkpoint can hold.
    """

    def __init__(self, loader: Any) -> None:
        self._parts = {} if hasattr(loader, "iterate") else dict(_parts(loader))
        self._first = {
            name: _attributes(part)
            for name, part in self._parts.items()
            if not (_is_generator(part) or is_stateful(part)) and _counts(name, part)
        }
        self.state()

    def state(self) -> dict[str, Tensor]:
        """The present state, as tensors."""
        found: dict[str, Any] = {}
        for name, part in self._parts.items():
            if name in self._first:
                first = self._first[name]
                now = _attributes(part)
                found[name] = {key: value for key, value in now.items() if not _same(value, first.get(key, part))}
            else:
                found[name] = _access(part)[0](part)
        return pack({name: value for name, value in found.items() if value != {}}, "the loader's state")

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes back what `state` gave, here or in an earlier process."""
        saved = unpack(tensors)
        for name, first in self._first.items():
            for key, value in {**first, **saved.get(name, {})}.items():
                setattr(self._parts[name], key, _copied(value))
        for name, value in saved.items():
            if name in self._parts and name not in self._first:
                _access(self._parts[name])[1](self._parts[name], value)


def _parts(loader: Any) -> Iterator[tuple[str, Any]]:
    """Everything below `loader` that has a state of its own, by where it is."""
    waiting: list[tuple[str, Any, int]] = [("loader", loader, 0)]
    seen: set[int] = set()
    while waiting and len(seen) < _MOST:
        name, part, depth = waiting.pop()
        if id(part) in seen or isinstance(part, _OPAQUE):
            continue
        seen.add(id(part))
        if _is_generator(part) or is_stateful(part):
            yield name, part
            continue
        if _counts(name, part):
            yield name, part
        if depth < _DEPTH:
            waiting += [(f"{name}.{key}", value, depth + 1) for key, value in _inside(part)]


def _inside(part: Any) -> list[tuple[str, Any]]:
    if isinstance(part, partial):
        return [("func", part.func), ("args", part.args), ("keywords", part.keywords)]
    if isinstance(part, MethodType | BuiltinMethodType):
        return [("self", part.__self__)]
    if isinstance(part, FunctionType):
        cells = [cell for cell in part.__closure__ or () if _filled(cell)]
        return [(str(place), cell.cell_contents) for place, cell in enumerate(cells)]
    if isinstance(part, dict):
        return [(str(key), value) for key, value in part.items()] if len(part) <= _WIDTH else []
    if isinstance(part, list | tuple):
        return [(str(place), value) for place, value in enumerate(part)] if len(part) <= _WIDTH else []
    return list(getattr(part, "__dict__", {}).items())


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _is_generator(part: Any) -> bool:
    return isinstance(part, tuple(_GENERATORS))


def _access(part: Any) -> tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]:
    """How a part gives its state, and takes it."""
    own = (lambda part: part.state_dict(), lambda part, state: part.load_state_dict(state))
    return next((access for kind, access in _GENERATORS.items() if isinstance(part, kind)), own)


def _counts(name: str, part: Any) -> bool:
    """Whether plain attributes are state: of samplers and loaders that are of the caller's own making."""
    home = type(part).__module__.partition(".")[0]
    if home in ("builtins", "torch", "accelerate", "protoat") or not hasattr(part, "__dict__"):
        return False
    return name == "loader" or isinstance(part, torch.utils.data.Sampler) or name.endswith("sampler")


def _attributes(part: Any) -> dict[str, Any]:
    return {key: _copied(value) for key, value in vars(part).items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biuf"
    if type(value) in (list, tuple):
        return all(type(item) in _PLAIN for item in value)
    return isinstance(value, Tensor) or type(value) in _PLAIN


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    return value.copy() if isinstance(value, list | np.ndarray) else value


def _same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    return bool(np.array_equal(one, other)) if isinstance(one, np.ndarray) else bool(one == other)
