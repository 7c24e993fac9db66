"""A module whose buffers may be added, removed and resized between checkpoints."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

_NOTHING = torch.empty(0)


class Memory(nn.Module):
    """A module with buffers that are None until training fills them, and take the shape of what is loaded.

    A state that lacks one of them, or holds it empty, makes it None.

    Attributes:
        memory: their names.

    >>> class Last(Memory):
    ...     memory = ("batch",)
    >>> first, second = Last(), Last()
    >>> first.batch = torch.ones(2, 3)
    >>> second.load_state_dict(first.state_dict())
    <All keys matched successfully>
    >>> second.batch.shape, Last().state_dict()
    (torch.Size([2, 3]), OrderedDict())
    """

    memory: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        super().__init__()
        for name in self.memory:
            self.register_buffer(name, None)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        for name in self.memory:
            stored = state_dict.get(prefix + name, _NOTHING)
            if not stored.numel():
                state_dict.pop(prefix + name, None)
            setattr(self, name, torch.empty_like(stored) if stored.numel() else None)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
