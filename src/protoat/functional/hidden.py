"""Finds sub-networks that `model.eval()` does not reach."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from types import FunctionType, MethodType, NoneType
from typing import Any

from torch import Tensor, nn

from protoat.functional.preserve import preserve_modes

# Objects looked at before the search gives up; a model of a thousand layers has a tenth of that.
_MOST = 20_000
_REGISTERED = {"_modules", "_parameters", "_buffers"}
_PLAIN = (Tensor, str, bytes, int, float, complex, NoneType)


def hidden_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Networks that a model holds past its registered parts, by where they were found.

    They may lie in lists, dictionaries, closures, partials, bound methods, attributes of objects that are no modules,
    or be global to the code of a forward. Parts of what is found are not listed again.

    >>> class Net(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.blocks = [nn.Dropout()]
    >>> hidden_modules(Net())
    {'blocks[0]': Dropout(p=0.5, inplace=False)}
    """
    known = {id(module) for module in model.modules()}
    seen: dict[int, Any] = {}  # holds the objects, so that no address is used again
    found: dict[str, nn.Module] = {}
    waiting = deque[tuple[str, Any]](model.named_modules())
    while waiting and len(seen) < _MOST:
        place, value = waiting.popleft()
        if id(value) in seen:
            continue
        seen[id(value)] = value
        if isinstance(value, nn.Module) and id(value) not in known:
            found[place] = value
            for name, part in value.named_modules():
                known.add(id(part))
                waiting.append((f"{place}.{name}" if name else place, part))
            seen.pop(id(value))
            continue
        waiting += ((where, held) for where, held in _inside(place, value) if not (_plain(held) or id(held) in seen))
    return found


def _plain(value: Any) -> bool:
    return isinstance(value, _PLAIN) or (type(value) in (dict, OrderedDict, list, tuple, set) and not value)


def _inside(place: str, value: Any) -> Iterator[tuple[str, Any]]:
    """What an object holds, and where."""
    dot = f"{place}." if place else ""
    if isinstance(value, nn.Module):
        for name, held in vars(value).items():
            if name not in _REGISTERED:
                yield f"{dot}{name}", held
        if not _of_library(type(value)):
            yield f"{dot}forward", type(value).forward
    elif isinstance(value, Mapping):
        yield from ((f"{place}[{key!r}]", held) for key, held in list(value.items()))
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"{place}[{number}]", held) for number, held in enumerate(value))
    elif isinstance(value, partial):
        yield from ((f"{place}", held) for held in (value.func, *value.args, *value.keywords.values()))
    elif isinstance(value, MethodType):
        yield from ((place, held) for held in (value.__self__, value.__func__))
    elif isinstance(value, FunctionType):
        yield from _of_function(place, value)
    elif not isinstance(value, type) and not _of_library(type(value)):
        for name in (*getattr(value, "__dict__", ()), *_slots(type(value))):
            with suppress(AttributeError):
                yield f"{dot}{name}", getattr(value, name)


def _of_function(place: str, function: FunctionType) -> Iterator[tuple[str, Any]]:
    if _of_library(function):
        return
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        with suppress(ValueError):  # a cell that is still empty
            yield f"{place}: {name}", cell.cell_contents
    for held in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
        yield place, held
    for name in function.__code__.co_names:
        held = function.__globals__.get(name)
        if isinstance(held, nn.Module | list | tuple | dict | partial | MethodType):
            yield f"{place}: {name}", held


def _of_library(value: Any) -> bool:
    """Whether a class or function is of torch, Python or numpy, whose insides hold no network of the user's."""
    home = str(getattr(value, "__module__", "") or "").partition(".")[0]
    return home in ("torch", "builtins", "numpy", "collections", "threading", "logging", "protoat", "weakref")


def _slots(kind: type) -> Iterator[str]:
    for base in kind.__mro__:
        slots = base.__dict__.get("__slots__", ())
        yield from (slots,) if isinstance(slots, str) else slots


@contextmanager
def hidden_parts_in_eval(parts: Mapping[str, nn.Module]) -> Iterator[None]:
    """Inside, hidden parts are in eval mode; every module gets its mode back, also on errors."""
    held = nn.ModuleList(parts.values())
    with preserve_modes(held):
        for module in held.modules():
            if hasattr(module, "training"):
                module.training = False
        yield
