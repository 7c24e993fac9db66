"""Checkpoints: folders of safetensors and JSON with checksums, written whole or not at all; never a pickle."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor

from protoat.errors import CheckpointError
from protoat.training.files import sync_folder, together, write_synced

__all__ = ["Checkpoint", "load", "load_latest", "save", "to_bytes"]

_STATE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose checksums were right when it was opened.

    Attributes:
        path: its folder.
        state: the JSON half.
    """

    path: Path
    state: dict[str, Any]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors saved under `name`, on the CPU, in the memory format they had."""
        with safetensors.safe_open(self.path / f"{name}.safetensors", "pt") as file:
            found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
            for key in json.loads(file.metadata()["channels_last"]):
                found[key] = found[key].contiguous(memory_format=torch.channels_last)
        return found


def to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors in the safetensors format; shared storage is written out for each name.

    The format knows no strides, so a note says which tensors lie in memory with channels last: kernels may round
    differently for the two.
    """
    whole = {key: value.detach().to("cpu", copy=True).contiguous() for key, value in tensors.items()}
    swapped = [
        key
        for key, value in tensors.items()
        if value.dim() == 4 and not value.is_contiguous() and value.is_contiguous(memory_format=torch.channels_last)
    ]
    return safetensors.torch.save(whole, {"channels_last": json.dumps(swapped)})


def save(
    folder: Path,
    update: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    *,
    accelerator: Accelerator,
    also_keep: Collection[int] = (),
) -> Path:
    """Writes ``folder/<update>/``, then removes all but the last two checkpoints.

    Everything goes into a hidden folder that is renamed when each file is on disk, so a kill at any moment leaves the
    previous checkpoint in place. In a distributed run every process calls this and writes its own files.

    Args:
        update: optimizer steps taken; names the checkpoint.
        tensors: by file name, then by key; names differ between processes.
        state: JSON values; the main process's are kept.
        also_keep: further updates whose checkpoints stay.

    Raises:
        DiskError: the disk is full or cannot be written; the previous checkpoints are as before.
    """
    partial, final = folder / ".partial", folder / f"{update:08d}"

    def begin() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in (*folder.glob(".partial"), *folder.glob(".[0-9]*")):
            shutil.rmtree(leftover)
        partial.mkdir()

    def write() -> None:
        for name, values in tensors.items():
            write_synced(partial / f"{name}.safetensors", to_bytes(values))

    def publish() -> None:
        files = {path.name: _sha256(path.read_bytes()) for path in sorted(partial.glob("*.safetensors"))}
        written = {**state, "update": update, "files": files}
        body = json.dumps(written, sort_keys=True)
        content = json.dumps({"sha256": _sha256(body.encode()), "state": written}, sort_keys=True, indent=1)
        write_synced(partial / _STATE, content.encode())
        sync_folder(partial)
        # Numbers only grow in a run, so what is not older than this one was found damaged and skipped.
        for path in _existing(folder):
            if int(path.name) >= update:
                _discard(path)
        partial.rename(final)
        sync_folder(folder)
        for path in _existing(folder)[:-2]:
            if int(path.name) not in also_keep:
                _discard(path)

    what = f"write checkpoint {final}"
    try:
        together(begin, what, accelerator)
        together(write, what, accelerator, everywhere=True)
        together(publish, what, accelerator)
    except BaseException:
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    return final


def load_latest(folder: Path, accelerator: Accelerator) -> Checkpoint | None:
    """The newest intact checkpoint, the same one on every process, or None where there is none at all.

    Warns about each checkpoint that is truncated or altered, and takes the one before it.

    Raises:
        CheckpointError: there are checkpoints, and all are damaged.
    """
    chosen: list[str | None] = [None]
    if accelerator.is_main_process:
        latest = _latest_intact(folder)
        chosen = [None if latest is None else latest.path.name]
    broadcast_object_list(chosen)
    return None if chosen[0] is None else load(folder / chosen[0], verify=False)


def load(path: Path, *, verify: bool = True) -> Checkpoint:
    """Opens one checkpoint.

    Args:
        verify: compare the checksum of each file.

    Raises:
        CheckpointError: it is truncated, altered, or unreadable.
    """
    try:
        content = json.loads((path / _STATE).read_bytes())
        state = content["state"]
        if content["sha256"] != _sha256(json.dumps(state, sort_keys=True).encode()):
            raise CheckpointError(f"{path / _STATE} was altered")
        for name, expected in state["files"].items() if verify else ():
            if _sha256((path / name).read_bytes()) != expected:
                raise CheckpointError(f"{path / name} was truncated or altered")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from error
    return Checkpoint(path, state)


def _latest_intact(folder: Path) -> Checkpoint | None:
    paths = _existing(folder)
    for path in reversed(paths):
        try:
            return load(path)
        except CheckpointError as error:
            warnings.warn(f"skipping a damaged checkpoint: {error}", stacklevel=2)
    if paths:
        raise CheckpointError(
            f"none of the {len(paths)} checkpoints in {folder} is intact; remove the folder to start over"
        )
    return None


def _existing(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("*") if path.name.isdecimal()), key=lambda path: int(path.name))


def _discard(path: Path) -> None:
    """Removes a checkpoint; what a kill leaves of it no longer looks like one."""
    hidden = path.with_name(f".{path.name}")
    path.rename(hidden)
    shutil.rmtree(hidden)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
