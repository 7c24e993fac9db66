"""Exported weights, one safetensors file with JSON beside it: saved, loaded, verified, and restored where damaged."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection, Mapping
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
from torch import Tensor, nn

from protoat.errors import CheckpointError, UserError
from protoat.objective import Objective
from protoat.regularizers import Regularizer
from protoat.storage.files import open_to_read, write
from protoat.storage.manifest import check, checksums, sha256_of, write_records
from protoat.training import checkpoint
from protoat.training.nested import pack, part, prefixed, unpack

logger = logging.getLogger(__name__)

_EXTRA = "_extra_state"  # torch's name for what a module keeps besides parameters and buffers


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """The state of a module as tensors, its ``get_extra_state`` included.

    Raises:
        ValueError: an extra state that is no nesting of plain values, arrays and tensors.
    """
    found: dict[str, Tensor] = {}
    for key, value in module.state_dict().items():
        found |= {key: value} if isinstance(value, Tensor) else prefixed(key, pack(value, key))
    return found


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Puts back what `tensors_of` gave."""
    state: dict[str, Any] = {key: value for key, value in tensors.items() if f"{_EXTRA}." not in key}
    for key in {key.rpartition(".")[0] for key in tensors.keys() - state.keys()}:
        state[key] = unpack(part(key, tensors))
    module.load_state_dict(state)


def check_same_architecture(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], source: Path) -> None:
    """Names and shapes must agree, but for extra states, of which a run may change the form.

    Raises:
        ValueError: names every mismatch.
    """
    expected, found = ({k: v for k, v in tensors.items() if _EXTRA not in k} for tensors in (expected, found))
    parts = {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(found.keys() - expected.keys()),
        "of another shape": [
            f"{key} {tuple(found[key].shape)} for {tuple(value.shape)}"
            for key, value in expected.items()
            if key in found and found[key].shape != value.shape
        ],
    }
    wrong = "; ".join(f"{what}: {', '.join(names)}" for what, names in parts.items() if names)
    if wrong:
        raise UserError(f"{source} is of another architecture: {wrong}")


def learned(regularizer: Regularizer | None) -> dict[str, Tensor]:
    """What of an objective outlasts a run (prototypes, masks), without what belongs to one process."""
    if regularizer is None:
        return {}
    state, passing = regularizer.state_dict(), regularizer.per_process
    return {f"regularizer.{key}": value for key, value in state.items() if key not in passing}


def save_weights(path: Path, model: nn.Module, objective: Objective, facts: Mapping[str, Any]) -> None:
    """Writes ``path`` (``.safetensors``: ``model.*`` and ``objective.*``), `facts` as JSON beside it, and checksums."""
    tensors = prefixed("model", tensors_of(model)) | prefixed("objective", learned(objective.regularizer))
    about = json.dumps(facts, indent=1).encode()
    # The weights last: a run that has them is complete.
    write_records(path.parent, {path.with_suffix(".json").name: about, path.name: checkpoint.to_bytes(tensors)})


class Weights(NamedTuple):
    """Exported weights, as they were read from the disk.

    Attributes:
        path: their file.
        sha256: of that file.
        tensors: ``model.*`` and ``objective.*``.
    """

    path: Path
    sha256: str
    tensors: dict[str, Tensor]

    @classmethod
    def read(cls, path: Path) -> Weights:
        """Those of a file, compared with its checksum.

        Raises:
            FileNotFoundError: it is not there.
            ValueError: not a safetensors file, or one that has changed since it was written.
        """
        with open_to_read(path) as file:
            content = file.read()
        try:
            tensors = safetensors.torch.load(content)
        except safetensors.SafetensorError as error:
            raise UserError(f"{path} is not a whole safetensors file ({error})") from error
        found = sha256(content).hexdigest()
        check(path, found)
        return cls(path, found, tensors)

    def load(self, model: nn.Module, objective: Objective | None = None) -> None:
        """Puts them into a model, and the prototypes into an objective.

        Raises:
            ValueError: another architecture; every mismatch is named.
        """
        weights = part("model", self.tensors)
        check_same_architecture(tensors_of(model), weights, self.path)
        if objective is not None:
            self.load_regularizer(objective.regularizer)
        load_tensors(model, weights)

    def load_regularizer(self, regularizer: Regularizer | None) -> None:
        """Puts the prototypes into a regularizer; see `load`."""
        prototypes = part("objective", self.tensors)
        check_same_architecture(learned(regularizer), prototypes, self.path)
        if regularizer is not None:
            regularizer.load_state_dict(regularizer.state_dict() | part("regularizer", prototypes))


def load_weights(path: Path | str, model: nn.Module, objective: Objective | None = None) -> None:
    """Puts weights that `fit` exported into a model, and the prototypes into an objective.

    Args:
        path: ``best.safetensors`` or ``last.safetensors`` of a run's folder.
        model: of the architecture that was trained.
        objective: as trained with; None leaves the prototypes in the file.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: not a safetensors file, one that has changed since it was written, or another architecture; every
            mismatch is named.
    """
    Weights.read(Path(path)).load(model, objective)


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
