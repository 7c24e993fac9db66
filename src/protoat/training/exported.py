"""Verifies exported weights, and restores damaged ones from their checkpoint."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import safetensors

from protoat.errors import CheckpointError, UserError
from protoat.storage.files import write
from protoat.storage.manifest import check, checksums
from protoat.storage.reading import open_to_read, sha256_of
from protoat.training import checkpoint
from protoat.training.weights import Weights, part, prefixed

logger = logging.getLogger(__name__)


def digest(path: Path) -> str:
    """SHA-256 of a file, computed once for as long as nobody writes it.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it cannot be read, or is no regular file.
    """
    with open_to_read(path) as file:
        status = os.fstat(file.fileno())
    return _digest(path, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)


@lru_cache(maxsize=4096)
def _digest(path: Path, *_status: int) -> str:
    return sha256_of(path)


def is_whole(path: Path) -> bool:
    """Whether a file is there and begins and ends as safetensors should; its bytes are not looked at.

    Raises:
        ValueError: this process may not hold so much memory, not even to look at.
    """
    try:
        with open_to_read(path), safetensors.safe_open(path, "pt"):
            return True
    except MemoryError as error:
        raise UserError(f"{path} cannot be opened: it is larger than the memory that this process may have") from error
    except (ValueError, OSError, safetensors.SafetensorError):
        return False


def checked_digest(path: Path) -> str:
    """SHA-256 of exported weights that are as they were written, as far as a checksum of them is there.

    Raises:
        FileNotFoundError: they are not there.
        ValueError: they are damaged.
    """
    try:
        found = digest(path)
        check(path, found)
    except FileNotFoundError:
        raise
    except ValueError as error:
        raise UserError(f"{error}; put it back from a copy, or train again in another folder") from error
    return found


def check_intact(path: Path) -> None:
    """Refuses exported weights that are damaged: see `checked_digest`, and those without a checksum must be whole.

    Raises:
        FileNotFoundError: they are not there.
        ValueError: they are damaged.
    """
    checked_digest(path)
    if not is_whole(path):
        raise UserError(
            f"{path} is not a whole safetensors file; move it away and run the command that trained it again, which "
            "writes the last weights from their checkpoint"
        )


def read_weights(path: Path) -> Weights:
    """Exported weights, written again from a checkpoint where they are damaged; see `restore`."""
    try:
        return Weights.read(path)
    except ValueError:
        restore(path)
        return Weights.read(path)


def restore(path: Path) -> None:
    """Refuses exported weights that are damaged, unless a checkpoint holds them: then they are written again from it.

    Raises:
        FileNotFoundError: they are not there.
        ValueError: they are damaged, and no checkpoint is intact that holds them.
    """
    try:
        check_intact(path)
    except FileNotFoundError:
        raise
    except ValueError as error:
        found = _from_checkpoint(path.parent / "checkpoints", checksums(path.parent).get(path.name, ()))
        if found is None:
            raise
        content, source = found
        try:
            write(path, content)
        except OSError as reason:
            raise UserError(f"{error}; {source} holds them, but they could not be written: {reason}") from reason
        logger.warning("%s was damaged; it was written again from checkpoint %s, byte for byte", path, source)


def _from_checkpoint(folder: Path, wanted: Collection[str]) -> tuple[bytes, Path] | None:
    """The file of weights with one of these checksums that a checkpoint gives, and that checkpoint."""
    for name in reversed(checkpoint.existing(folder) if wanted else []):
        path = folder / name
        try:
            found = checkpoint.load(path)
            tensors = found.tensors("common") | found.tensors("process-0")
        except CheckpointError:
            continue
        average = part("average", tensors)
        averaged = bool(average) and int(average["n_averaged"])
        model = part("module", average) if averaged else part("model", tensors)
        objective = {key: value for key, value in part("objective", tensors).items() if not key.startswith("method.")}
        content = checkpoint.to_bytes(prefixed("model", model) | prefixed("objective", objective))
        if sha256(content).hexdigest() in wanted:
            return content, path
    return None
