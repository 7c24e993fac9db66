"""Checkpoints: folders of safetensors and JSON with checksums, written whole or not at all; never a pickle."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import Tensor

from protoat.errors import CheckpointError
from protoat.storage.files import Folder, open_folder, read_bytes, remove
from protoat.storage.locks import on_main
from protoat.storage.manifest import sha256_of
from protoat.storage.parsing import MOST_BYTES, parse_json

_STATE = "state.json"
_FILE = re.compile(r"[\w-]+\.safetensors")
_LEFTOVER = re.compile(r"\.(partial|\d+)")  # of what a kill interrupted


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
        if f"{name}.safetensors" not in self.state["files"]:
            raise CheckpointError(f"{self.path} has no {name}.safetensors")
        path = self.path / f"{name}.safetensors"
        try:
            with safetensors.safe_open(path, "pt") as file:
                found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
                for key in json.loads(file.metadata()["channels_last"]):  # in the order of `to_bytes`
                    found[key] = found.pop(key).contiguous(memory_format=torch.channels_last)
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            raise CheckpointError(f"{path} cannot be read ({error})") from error
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
) -> Path:
    """Writes ``folder/<update>/``, then removes all but the last two checkpoints and those where their epochs began.

    Everything goes into a hidden folder that is renamed when each file is on disk, so a kill at any moment leaves the
    previous checkpoint in place. In a distributed run every process calls this and writes its own files.

    Args:
        update: optimizer steps taken; names the checkpoint.
        tensors: by file name, then by key; names differ between processes.
        state: JSON values; the main process's are kept. ``run`` holds `epoch_update`, at which the present epoch began
            and to whose checkpoint it may have to return.

    Raises:
        DiskError: the disk is full or cannot be written; the previous checkpoints are as before.
    """
    partial, final, made = folder / ".partial", folder / f"{update:08d}", False

    def begin() -> None:
        nonlocal made
        with open_folder(folder, within=folder.parent, make=True) as opened:
            _clear(opened)
            opened.enter(partial.name, make=True).close()
            made = True

    def write() -> None:
        with open_folder(partial, within=folder.parent) as opened:
            for name, values in tensors.items():
                opened.write_new(f"{name}.safetensors", to_bytes(values))

    def publish() -> None:
        with open_folder(partial, within=folder.parent) as opened:
            sums = {
                name: sha256_of(partial / name, within=partial)
                for name in opened.names()
                if name.endswith(".safetensors")
            }
            written = {**state, "update": update, "files": sums}
            body = json.dumps(written, sort_keys=True)
            content = json.dumps({"sha256": sha256(body.encode()).hexdigest(), "state": written}, indent=1)
            opened.write_new(_STATE, content.encode())
            opened.sync()
        with open_folder(folder, within=folder.parent) as opened:
            # Numbers only grow in a run, so what is not older than this one was found damaged and skipped.
            for name in _existing(opened.names()):
                if int(name) >= update:
                    _discard(opened, name)
            opened.rename(partial.name, final.name)
            opened.sync()
            _prune(opened)

    what = f"write checkpoint {final}"
    try:
        on_main(begin, what)
        on_main(write, what, everywhere=True)
        on_main(publish, what)
    except BaseException:
        if made:
            with suppress(OSError, ValueError):
                remove(partial, within=folder.parent)
        raise
    return final


def clear(folder: Path, latest: Checkpoint) -> None:
    """Removes what a kill left: parts of checkpoints, and whole ones that `save` had not removed yet.

    Args:
        latest: as found there; whole checkpoints are left alone where newer ones are damaged.
    """
    with open_folder(folder, within=folder.parent) as opened:
        _clear(opened)
        if latest.path.name == _existing(opened.names())[-1]:
            _prune(opened)


def load_latest(folder: Path) -> Checkpoint | None:
    """The newest intact checkpoint, the same one on every process, or None where there is none at all.

    Warns about each checkpoint that is truncated or altered, and takes the one before it.

    Raises:
        CheckpointError: there are checkpoints, and all are damaged.
    """
    chosen: list[str | None] = [None]
    if PartialState().is_main_process:
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
        content = parse_json(read_bytes(path / _STATE, limit=MOST_BYTES, within=path.parent.parent))
        state = content["state"]
        if content["sha256"] != sha256(json.dumps(state, sort_keys=True).encode()).hexdigest():
            raise CheckpointError(f"{path / _STATE} was altered")
        for name, expected in state["files"].items() if verify else ():
            if not _FILE.fullmatch(name) or sha256_of(path / name, within=path) != expected:
                raise CheckpointError(f"{path / name} was truncated or altered")
    except CheckpointError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from error
    return Checkpoint(path, state)


def _latest_intact(folder: Path) -> Checkpoint | None:
    names = existing(folder)
    for name in reversed(names):
        try:
            return load(folder / name)
        except CheckpointError as error:
            warnings.warn(f"skipping a damaged checkpoint: {error}", stacklevel=2)
    if names:
        raise CheckpointError(
            f"none of the {len(names)} checkpoints in {folder} is intact; remove the folder to start over"
        )
    return None


def existing(folder: Path) -> list[str]:
    """Names of the checkpoints in a folder, by update; none where there is no folder.

    Raises:
        ValueError: it is a link or a file.
    """
    try:
        with open_folder(folder, within=folder.parent) as opened:
            return _existing(opened.names())
    except FileNotFoundError:
        return []


def _existing(names: Iterable[str]) -> list[str]:
    return sorted((name for name in names if name.isdecimal()), key=int)


def _clear(folder: Folder) -> None:
    for name in filter(_LEFTOVER.fullmatch, folder.names()):
        folder.enter(name).close()  # a link is refused
        folder.remove(name)


def _prune(folder: Folder) -> None:
    """Removes all but the last two checkpoints and those where their epochs began; none where that cannot be told."""
    names = _existing(folder.names())
    try:
        starts = {load(folder.path / name, verify=False).state["run"]["epoch_update"] for name in names[-2:]}
    except (CheckpointError, KeyError, TypeError):
        return
    for name in names[:-2]:
        if int(name) not in starts:
            _discard(folder, name)


def _discard(folder: Folder, name: str) -> None:
    """Removes a checkpoint; what a kill leaves of it no longer looks like one."""
    folder.rename(name, f".{name}")
    folder.remove(f".{name}")
