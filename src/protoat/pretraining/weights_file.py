"""Reads tensors from weights files without unpickling code."""

from __future__ import annotations

import argparse
import logging
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from protoat.errors import UserError

logger = logging.getLogger(__name__)

# Where scripts keep the weights beside other things; the first that is there is taken.
_USUAL = ("state_dict", "model", "model_state_dict", "net")
_NO_WEIGHTS = re.compile(r"optim|opt$|sched|scaler|rng|args|config|hyper|callbacks|loops|momentum")
_DEEPEST = 3  # dictionaries in dictionaries that are looked through
_INFLATED = 4  # tensors may take so many times the bytes of their file, as some are shared
_SMALL = 2**20  # bytes that are never too many


def split_spec(spec: Path | str) -> tuple[Path, str | None]:
    """The file, and the name of a set of tensors in it, of ``FILE`` or ``FILE#NAME``.

    >>> split_spec("net.pt#state_dict_ema")
    (PosixPath('net.pt'), 'state_dict_ema')
    """
    path, (file, sign, name) = Path(spec), str(spec).rpartition("#")
    return (path, None) if path.is_file() or not (sign and file and name) else (Path(file), name)


def read_tensors(spec: Path | str) -> dict[str, Tensor]:
    """The tensors of a weights file by name, on the CPU.

    Args:
        spec: safetensors, or a file of torch with a state dictionary, alone or beside other things. Where it holds
            several, ``FILE#NAME`` chooses one by its key, or by the prefix that its names have; else the one under
            ``state_dict``, ``model``, ``model_state_dict`` or ``net`` is taken, and a log line says so.

    Raises:
        ValueError: no such file, one that holds code, is damaged or no weights, or no state dictionary of that name.
    """
    path, wanted = split_spec(spec)
    if not path.is_file():
        raise UserError(f"{path} is no regular file" if path.exists() else f"there is no weights file {path}")
    content = _content(path)
    if not isinstance(content, Mapping):
        kind = type(content).__name__
        raise UserError(f"{path} holds a {kind}, expected tensors by name: save model.state_dict()")
    sets = dict(_sets(content))
    tensors = _chosen(path, content, sets, wanted)
    size, most = sum(value.numel() * value.element_size() for value in tensors.values()), path.stat().st_size
    if size > _INFLATED * most + _SMALL:
        raise UserError(f"{path} has {most} bytes, and its tensors would have {size}; it is damaged or made to harm")
    return tensors


def _content(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        _check_inflation(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # the options of a script: plain attributes
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"{path} is neither safetensors nor a torch file of plain tensors{_why(path, error)}"
        ) from error


def _check_inflation(path: Path) -> None:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _INFLATED * path.stat().st_size + _SMALL:
                raise UserError("it is packed too densely")


def _why(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        head = file.read(256).lstrip()
    if not head:
        return ": it is empty"
    if head.startswith(b"version https://git-lfs"):
        return ": it is a pointer of Git LFS; get the file itself: git lfs pull"
    if head.startswith((b"<", b"{")):
        return ": it is text, such as a page that was downloaded in place of the file"
    if "TorchScript" in str(error):
        return ": it is a TorchScript program; save model.state_dict()"
    if "Unsupported global" in str(error):
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        return f", it holds {found[1] if found else 'an object'}; of a model, save model.state_dict()"
    return ""


def _is_state(content: Any) -> bool:
    """Whether it is tensors by name; where most names are those of inner layers, numbers beside them do no harm."""
    if not isinstance(content, Mapping) or not content or not all(isinstance(key, str) for key in content):
        return False
    tensors = [key for key, value in content.items() if isinstance(value, Tensor)]
    inner = [key for key in tensors if "." in key]
    return len(tensors) == len(content) or 2 * len(inner) > len(content)


def _sets(content: Mapping[Any, Any], outer: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    if _is_state(content):
        yield outer, {key: value for key, value in content.items() if isinstance(value, Tensor)}
        return
    for key, value in content.items():
        name = f"{outer}.{key}" if outer else str(key)
        if depth < _DEEPEST and isinstance(value, Mapping) and not _NO_WEIGHTS.search(str(key).lower()):
            yield from _sets(value, name, depth + 1)


def _chosen(
    path: Path, content: Mapping[Any, Any], sets: Mapping[str, dict[str, Tensor]], wanted: str | None
) -> dict[str, Tensor]:
    if wanted is not None:
        if wanted in sets:
            return sets[wanted]
        inside = _of_prefix(sets, wanted)
        if inside:
            return inside
        raise UserError(f"{path} holds nothing called {wanted!r}; it has {_listed([*sets] or content)}")
    if not sets:
        raise UserError(
            f"{path} holds no state dictionary but {_listed(content)}; expected tensors by name (model.state_dict()), "
            f"alone or beside other things, as under {', '.join(_USUAL)}"
        )
    if len(sets) == 1:
        return next(iter(sets.values()))
    usual = [name for key in _USUAL for name in sets if name.split(".")[0] == key]
    if not usual or (len(usual) > 1 and usual[0] not in _USUAL):
        raise UserError(
            f"{path} holds state dictionaries under {_listed(sets)}; expected one, or a name: {path}#{next(iter(sets))}"
        )
    others = [name for name in sets if name != usual[0]]
    logger.warning("%s: %s is taken, of %s; for another write %s#%s", path, usual[0], _listed(sets), path, others[0])
    return sets[usual[0]]


def _of_prefix(sets: Mapping[str, dict[str, Tensor]], wanted: str) -> dict[str, Tensor]:
    """The tensors of one set whose names begin with that prefix, without it."""
    for tensors in sets.values():
        inside = {
            name.removeprefix(f"{wanted}."): value for name, value in tensors.items() if name.startswith(f"{wanted}.")
        }
        if inside:
            return inside
    return {}


def _listed(keys: Iterable[Any], most: int = 8) -> str:
    names = list(map(str, keys))
    return ", ".join(names[:most]) + f" and {len(names) - most} more" * (len(names) > most)
