"""Reads regular files, following no links."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from protoat.errors import MissingFileError, UserError
from protoat.storage.files import open_folder

_PART = 2**20  # bytes


def read_bytes(path: Path, *, limit: int, within: Path | None = None) -> bytes:
    """What a regular file holds.

    Args:
        path: of the file.
        limit: bytes that are read at most.
        within: see `open_folder`; default: the folder of the file.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it cannot be read, is longer, or is a link, a folder, a pipe or a device.
    """
    with open_to_read(path, within=within) as file:
        try:
            content = file.read(limit + 1)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(content) > limit:
        raise UserError(f"{path} is longer than {limit} bytes, so it is not read")
    return content


@contextmanager
def open_to_read(path: Path, *, within: Path | None = None) -> Iterator[BinaryIO]:
    """A regular file, open to be read in parts.

    Raises:
        FileNotFoundError, ValueError: see `read_bytes`.
    """
    try:
        with open_folder(path.parent, within=within) as folder:
            descriptor = folder.open(path.name, os.O_RDONLY)
    except FileNotFoundError:
        raise MissingFileError(f"there is no file {path}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    with os.fdopen(descriptor, "rb") as file:
        yield file


def sha256_of(path: Path, *, within: Path | None = None) -> str:
    """SHA-256 of a regular file, in hex.

    Raises:
        FileNotFoundError, ValueError: see `read_bytes`.
    """
    found = sha256()
    with open_to_read(path, within=within) as file:
        while part := file.read(_PART):
            found.update(part)
    return found.hexdigest()
