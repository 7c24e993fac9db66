"""Reads the public encoders of ACL and RoCL."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from protoat.errors import UserError
from protoat.models.dual_bn import Branch

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


def of_branch(tensors: Mapping[str, Tensor], branch: Branch | None) -> tuple[dict[str, Tensor], Branch | None]:
    """The tensors of a network with the batch norm of one branch, and that branch; one set of batch norm is left alone.

    Args:
        tensors: by name, as `read_tensors` gives them.
        branch: ``"clean"`` or ``"adv"``; None takes ``"adv"`` where it is there.

    Raises:
        ValueError: a branch that is not there.

    >>> import torch
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
        raise UserError(f"branch={branch!r} is not there: {' and '.join(marked) or 'one set of batch norm'} only")
    chosen: Branch | None = branch or next((name for name in ("adv", "clean") if name in marked), None)
    return shared | (marked[chosen] if chosen else {}), chosen


def torchvision_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a ResNet under the names that torchvision's blocks give them.

    >>> import torch
    >>> list(torchvision_names({"layer2.0.shortcut.0.weight": torch.zeros(1)}))
    ['layer2.0.downsample.0.weight']
    """
    for theirs, ours in _NAMES:
        tensors = {re.sub(theirs, ours, name): value for name, value in tensors.items()}
    return dict(tensors)
