"""A process that is killed at a file operation, in this process: from then on nothing reaches the disk any more."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from protoat.storage import files

__all__ = ["Killed", "killed_at"]


class Killed(BaseException):
    """Stands for SIGKILL."""


@contextmanager
def killed_at(moment: int) -> Iterator[SimpleNamespace]:
    """Raises `Killed` at the operation of this number, from 0, of all that change files or wait for the disk.

    A write is killed when half of it is done. What cleans up after the error finds that nothing works either.

    Yields:
        An object whose `done` counts the operations.
    """
    counted = SimpleNamespace(done=0)

    def guarded(operate: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if name == "open" and not args[1] & os.O_CREAT:
                return operate(*args, **kwargs)
            counted.done += 1
            if counted.done > moment:
                if name == "write" and counted.done == moment + 1:
                    operate(args[0], args[1][: len(args[1]) // 2])
                raise Killed(name)
            return operate(*args, **kwargs)

        return call

    names = ("open", "mkdir", "makedirs", "replace", "unlink", "rmdir", "write", "fsync")
    system = SimpleNamespace(**vars(os))
    for name in names:
        setattr(system, name, guarded(getattr(os, name), name))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "os", system)
        patch.setattr(Path, "rmdir", guarded(Path.rmdir, "rmdir"))
        yield counted
