"""Checkpoints appear whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import Tensor

from protoat.storage.files import Folder
from protoat.training import CheckpointError, DiskError, checkpoint
from tests.kills import Killed, killed_at
from tests.processes import begin


def content(update: int) -> dict[str, dict[str, Tensor]]:
    return {
        "common": {"a": torch.full((3, 2), float(update)), "half": torch.ones(2, dtype=torch.bfloat16)},
        "process-0": {"flag": torch.tensor([True, False]), "count": torch.tensor(update), "none": torch.zeros(0, 4)},
    }


def save(folder: Path, update: int, began: int | None = None) -> Path:
    """A checkpoint of an epoch that began with this update, by default the same."""
    state = {"mark": update / 3, "run": {"epoch_update": update if began is None else began}}
    return checkpoint.save(folder, update, content(update), state)


def assert_is(found: checkpoint.Checkpoint | None, update: int) -> None:
    assert found is not None
    assert found.state["mark"] == update / 3
    for name, tensors in content(update).items():
        loaded = found.tensors(name)
        assert loaded.keys() == tensors.keys()
        for key, value in tensors.items():
            assert loaded[key].dtype == value.dtype and torch.equal(loaded[key], value)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_round_trip_and_the_last_two_are_kept(tmp_path: Path) -> None:
    assert checkpoint.load_latest(tmp_path / "absent") is None
    for update in (0, 7, 30, 100):
        save(tmp_path, update)
        assert_is(checkpoint.load_latest(tmp_path), update)
        if update == 30:
            assert names(tmp_path) == ["00000007", "00000030"]
    assert names(tmp_path) == ["00000030", "00000100"]


def test_keeps_what_an_epoch_may_return_to(tmp_path: Path) -> None:
    for update in (0, 2, 4, 6, 8):
        save(tmp_path, update, began=min(update, 2))
    assert names(tmp_path) == ["00000002", "00000006", "00000008"]
    save(tmp_path, 10)
    assert names(tmp_path) == ["00000002", "00000008", "00000010"]  # the one before may be gone on from
    save(tmp_path, 12)
    assert names(tmp_path) == ["00000010", "00000012"]


def test_a_checkpoint_that_cannot_be_read_removes_none(tmp_path: Path) -> None:
    for update in (1, 2):
        save(tmp_path, update)
    (tmp_path / "00000002" / "state.json").write_text("{}")
    save(tmp_path, 3)
    assert names(tmp_path) == ["00000001", "00000002", "00000003"]


def test_numbers_beyond_the_padding_stay_in_order(tmp_path: Path) -> None:
    for update in (99_999_999, 100_000_000):
        save(tmp_path, update)
    assert_is(checkpoint.load_latest(tmp_path), 100_000_000)


def test_memory_format_and_shared_storage_survive(tmp_path: Path) -> None:
    images = torch.rand(2, 3, 4, 4)
    shared = torch.rand(5)
    tensors = {"x": images.contiguous(memory_format=torch.channels_last), "y": images, "a": shared, "b": shared[1:]}
    checkpoint.save(tmp_path, 1, {"common": tensors}, {})
    found = checkpoint.load_latest(tmp_path)
    assert found is not None
    loaded = found.tensors("common")
    for key, value in tensors.items():
        assert torch.equal(loaded[key], value)
    assert loaded["x"].stride() == tensors["x"].stride()
    assert loaded["y"].stride() == images.stride()


@pytest.mark.parametrize("damaged_newer", [False, True])
def test_killed_at_every_operation(damaged_newer: bool, tmp_path: Path) -> None:
    stopped_before_rename = stopped_after_rename = 0
    for moment in range(10_000):
        folder = tmp_path / str(moment)
        for update in (1, 2):
            save(folder, update)
        if damaged_newer:
            (save(folder, 9, began=1) / "common.safetensors").write_bytes(b"")
        finished = False
        with suppress(Killed), killed_at(moment):
            save(folder, 3)
            finished = True
        if damaged_newer and (folder / "00000009").exists():
            with pytest.warns(UserWarning, match="damaged"):
                found = checkpoint.load_latest(folder)
        else:
            found = checkpoint.load_latest(folder)
        assert found is not None
        assert_is(found, found.state["update"])
        assert found.state["update"] in ((3,) if finished else (2, 3))
        stopped_before_rename += found.state["update"] == 2
        stopped_after_rename += found.state["update"] == 3
        if damaged_newer and (folder / "00000009").exists():
            continue
        save(folder, 4)
        assert names(folder)[-1] == "00000004" and len(names(folder)) == 2
        if finished:
            break
    assert finished and stopped_before_rename > 5 and stopped_after_rename > 1


@pytest.mark.parametrize("name", ["common.safetensors", "process-0.safetensors", "state.json"])
def test_every_altered_byte_is_noticed(name: str, tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    original = (path / name).read_bytes()
    state = json.loads((path / "state.json").read_text())["state"]
    for place in range(0, len(original), 7):
        for bit in (1, 32):
            changed = bytearray(original)
            changed[place] ^= bit
            (path / name).write_bytes(changed)
            try:
                found = checkpoint.load(path)
            except CheckpointError:
                continue
            # Only white space between JSON values may change unnoticed, because it means nothing.
            assert name == "state.json" and found.state == state
    for length in range(0, len(original) - 1, 11):
        (path / name).write_bytes(original[:length])
        with pytest.raises(CheckpointError):
            checkpoint.load(path)


def test_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for update in (1, 2):
        save(tmp_path, update)
    for failing in ("common.safetensors", "process-0.safetensors", "state.json"):

        def full(opened: Folder, name: str, data: bytes, failing: str = failing) -> None:
            (opened.path / name).write_bytes(data[: len(data) // 2])
            if name == failing:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(Folder, "write_new", full)
            with pytest.raises(
                DiskError, match=r"could not write checkpoint .*00000003: No space left on device.*intact"
            ):
                save(tmp_path, 3)
        assert names(tmp_path) == ["00000001", "00000002"]
        assert_is(checkpoint.load_latest(tmp_path), 2)


FULL = """
import resource, sys
from pathlib import Path
import torch
from protoat.training import checkpoint
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
checkpoint.save(Path(sys.argv[1]), 3, {"common": {"a": torch.zeros(200_000)}}, {})
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files by setrlimit")
def test_a_write_the_system_refuses(tmp_path: Path) -> None:
    """As a full disk, with the operating system's own error in the middle of a file."""
    save(tmp_path / "saved", 2)
    (tmp_path / "program.py").write_text(FULL)
    process = begin(tmp_path / "program.py", tmp_path / "saved", log=tmp_path / "log")
    process.join()
    said = (tmp_path / "log").read_text()
    assert process.exitcode == 1
    assert "DiskError: could not write checkpoint" in said and "File too large" in said
    assert names(tmp_path / "saved") == ["00000002"]
    assert_is(checkpoint.load_latest(tmp_path / "saved"), 2)


def test_foreign_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".DS_Store").write_text("x")
    (tmp_path / "notes.txt").write_text("x")
    for update in (1, 2, 3):
        save(tmp_path, update)
    assert names(tmp_path) == [".DS_Store", "00000002", "00000003", "notes.txt"]
    shutil.rmtree(tmp_path / "00000002")
    shutil.rmtree(tmp_path / "00000003")
    assert checkpoint.load_latest(tmp_path) is None
