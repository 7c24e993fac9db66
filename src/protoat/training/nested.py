"""Serialises nested state of schedulers and samplers as tensors and JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from protoat.errors import UserError

_JSON = "json"


def pack(value: Any, what: str) -> dict[str, Tensor]:
    """Any nesting of lists, tuples, dictionaries, numbers, texts, bytes, arrays and tensors, as tensors by name.

    Args:
        what: whose state it is, for the message.

    Raises:
        ValueError: something else is inside; says what and where.

    >>> state = {1: (2.5, None), "order": [torch.tensor([3])]}
    >>> sorted(pack(state, "x")), unpack(pack(state, "x")) == state
    (['0', 'json'], True)
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_encoded(value, what, tensors))
    return {_JSON: torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8), **tensors}


def unpack(tensors: Mapping[str, Tensor]) -> Any:
    """What `pack` was given."""
    return _decoded(json.loads(bytes(tensors[_JSON].numpy())), tensors)


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, each name behind ``prefix.``."""
    return {f"{prefix}.{key}": value for key, value in tensors.items()}


def part(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `prefixed` was given."""
    start = f"{prefix}."
    return {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}


def _encoded(value: Any, where: str, tensors: dict[str, Tensor]) -> Any:
    """JSON in which a dictionary of one entry names a kind, and everything large is a number in `tensors`."""

    def stored(tensor: Tensor) -> str:
        name = str(len(tensors))
        tensors[name] = tensor.detach().to("cpu", copy=True)
        return name

    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufc":
        raw = torch.frombuffer(bytearray(value.tobytes()), dtype=torch.uint8) if value.size else torch.empty(0).byte()
        return {"array": [stored(raw), value.dtype.str, list(value.shape), isinstance(value, np.generic)]}
    if isinstance(value, Tensor):
        return {"tensor": stored(value)}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, list | tuple):
        items = [_encoded(item, f"{where}[{place}]", tensors) for place, item in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, Mapping):
        kind = "counter" if isinstance(value, Counter) else "dict"
        pairs = value.items()
        return {kind: [[_encoded(key, where, tensors), _encoded(v, f"{where}[{key!r}]", tensors)] for key, v in pairs]}
    raise UserError(f"{where} is a {type(value).__name__}, which no checkpoint can hold")


def _decoded(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decoded(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "array":
        name, dtype, shape, scalar = content
        array = np.frombuffer(tensors[name].numpy().tobytes(), dtype=dtype).reshape(shape)
        return array[()] if scalar else array.copy()
    return _KINDS[kind](content, tensors)


_KINDS: dict[str, Callable[[Any, Mapping[str, Tensor]], Any]] = {
    "tensor": lambda name, tensors: tensors[name],
    "bytes": lambda text, _: bytes.fromhex(text),
    "tuple": lambda items, tensors: tuple(_decoded(items, tensors)),
    "dict": lambda pairs, tensors: {_decoded(key, tensors): _decoded(value, tensors) for key, value in pairs},
    "counter": lambda pairs, tensors: Counter({key: _decoded(value, tensors) for key, value in pairs}),
}
