"""Libraries that only some parts need."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from protoat.errors import UserError


class NotInstalledError(UserError, ImportError):
    """A library that a part needs is not installed.

    Args:
        library: its name.
        package: what installs it.
    """

    def __init__(self, library: str, package: str) -> None:
        super().__init__(f"{library} is not installed; install it: pip install {package}")


def optional(module: str, package: str) -> ModuleType:
    """A module of such a library.

    Args:
        module: dotted name.
        package: what installs it, as one types it.

    Raises:
        NotInstalledError: it is not installed.

    >>> optional("no_such_library.writer", "'protoat[tensorboard]'")
    Traceback (most recent call last):
    protoat.optional.NotInstalledError: no_such_library is not installed; install it: pip install 'protoat[tensorboard]'
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise NotInstalledError(error.name or module, package) from None
