"""Encoders that the scripts of ACL's and RoCL's authors have trained, under the names of torchvision's ResNet."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from protoat.models.dual_bn import Branch

__all__ = ["of_branch", "read_tensors", "torchvision_names"]

# Where training scripts keep the weights beside other things: ACL's the first, RoCL's the second.
_NESTS = ("state_dict", "model", "model_state_dict", "net")
# What stands before the name of a tensor of batch norm: an index in ACL's lists, "_adv" in its older files, or ours.
_MARK = re.compile(
    r"(\.bn_list(\.(?P<index>\d))?|\.(?P<name>clean|adv)|(?P<old>_adv))"
    r"(?=\.(weight|bias|running_mean|running_var|num_batches_tracked)$)"
)
_OF_MARK: dict[str, Branch] = {"0": "clean", "1": "adv", "clean": "clean", "adv": "adv", "_adv": "adv"}
_NAMES = (
    (r"\bshortcut\.", "downsample."),  # RoCL
    (r"\bdownsample\.conv\.", "downsample.0."),  # ACL
    (r"\bdownsample\.bn\.", "downsample.1."),
)


def read_tensors(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a weights file by name, on the CPU.

    Args:
        path: safetensors, or a state dictionary of torch, alone or beside other things, under any name where it is
            the only one, as training scripts save it.

    Raises:
        ValueError: no such file, one that holds code, or no state dictionary in it.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no weights file {path}")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        whole = "; of a model, save model.state_dict()" * ("Unsupported global" in str(error))
        raise ValueError(f"{path} is neither safetensors nor a torch file of plain tensors{whole}") from error
    for key in _NESTS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if _is_state(content):
        return dict(content)
    if not isinstance(content, Mapping):
        kind = type(content).__name__
        raise ValueError(f"{path} holds a {kind}, expected tensors by name: save model.state_dict()")  # noqa: TRY004 - one kind of error for a bad file
    inside = [key for key, value in content.items() if _is_state(value) and value]
    if len(inside) == 1:
        return dict(content[inside[0]])
    found = f"state dictionaries under {_listed(inside)}" if inside else f"no state dictionary but {_listed(content)}"
    raise ValueError(
        f"{path} holds {found}; expected tensors by name (model.state_dict()), alone or as the only ones beside other "
        f"things, or under one of {', '.join(_NESTS)}"
    )


def _is_state(content: Any) -> bool:
    return isinstance(content, Mapping) and all(isinstance(value, Tensor) for value in content.values())


def _listed(keys: Iterable[Any], most: int = 8) -> str:
    names = list(map(str, keys))
    return ", ".join(names[:most]) + f" and {len(names) - most} more" * (len(names) > most)


def of_branch(tensors: Mapping[str, Tensor], branch: Branch | None) -> tuple[dict[str, Tensor], Branch | None]:
    """The tensors of a network with the batch norm of one branch, and that branch; one set of batch norm is left alone.

    Args:
        tensors: by name, as `read_tensors` gives them.
        branch: ``"clean"`` or ``"adv"``; None takes ``"adv"`` where it is there.

    Raises:
        ValueError: a branch that is not there.

    >>> pair = {"bn1.bn_list.0.weight": torch.zeros(2), "bn1.bn_list.1.weight": torch.ones(2)}
    >>> of_branch(pair, None)
    ({'bn1.weight': tensor([1., 1.])}, 'adv')
    """
    shared: dict[str, Tensor] = {}
    marked: dict[Branch, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        found = _MARK.search(name)
        mark = None if found is None else found["index"] or found["name"] or found["old"]
        plain = _MARK.sub("", name)
        if mark is None:
            shared[plain] = value
        elif mark in _OF_MARK:
            marked.setdefault(_OF_MARK[mark], {})[plain] = value
    if marked.keys() == {"adv"}:  # the older files, where nothing stands before the clean names
        marked["clean"] = {name: shared[name] for name in marked["adv"] if name in shared}
    if branch is not None and branch not in marked:
        raise ValueError(f"branch={branch!r} is not there: {' and '.join(marked) or 'one set of batch norm'} only")
    chosen: Branch | None = branch or next((name for name in ("adv", "clean") if name in marked), None)
    return shared | (marked[chosen] if chosen else {}), chosen


def torchvision_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a ResNet under the names that torchvision's blocks give them.

    >>> list(torchvision_names({"layer2.0.shortcut.0.weight": torch.zeros(1)}))
    ['layer2.0.downsample.0.weight']
    """
    for theirs, ours in _NAMES:
        tensors = {re.sub(theirs, ours, name): value for name, value in tensors.items()}
    return dict(tensors)
