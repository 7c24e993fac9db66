from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from protoat.data import cache as module
from protoat.data import cache_folder
from protoat.data.cache import decode_once, file_digests


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{index:03d}.png" for index in range(600)]  # more than two chunks of work
    for index, path in enumerate(paths):
        Image.fromarray(np.random.default_rng(index).integers(0, 256, (4, 3, 3), dtype=np.uint8)).save(path)
    return paths


def decode(paths: list[Path], image_size: int | None = None) -> torch.Tensor:
    return decode_once(paths, file_digests(paths), image_size=image_size)


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "read_picture", lambda *args, **options: pytest.fail("an image was decoded again"))


def test_pixels_in_the_order_of_the_paths(paths: list[Path]) -> None:
    images = decode(paths)
    assert images.shape == (600, 3, 4, 3) and images.dtype == torch.uint8
    for image, path in zip(images, paths, strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(Image.open(path)))


def test_second_time_reads_the_cache_wherever_the_files_are(
    paths: list[Path], cache: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    first = decode(paths)
    (stored,) = cache.rglob("*.*")
    assert stored.parent == cache_folder() and torch.equal(load_file(stored)["images"], first)
    moved = [path.rename(path.with_name(f"moved {path.name}")) for path in paths]
    request.getfixturevalue("no_decoding")
    assert torch.equal(decode(moved), first)


def test_other_content_order_or_size_is_another_entry(paths: list[Path], cache: Path) -> None:
    first = decode(paths)
    stamp = paths[0].stat()
    old, new = paths[0].read_bytes(), paths[1].read_bytes()
    paths[0].write_bytes(new)
    import os

    os.utime(paths[0], ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # the time stamp does not tell
    changed = decode(paths)
    assert torch.equal(changed[0], first[1]) and torch.equal(changed[1:], first[1:])
    paths[0].write_bytes(old)
    assert torch.equal(decode(paths[::-1]), first.flip(0))
    assert decode(paths, image_size=2).shape == (600, 3, 2, 2)
    assert len(list(cache.rglob("*.safetensors"))) == 4


@pytest.mark.parametrize("keep", [0, 5, 300])
def test_damaged_entry_is_replaced(paths: list[Path], cache: Path, keep: int) -> None:
    first = decode(paths)
    (stored,) = cache.rglob("*.safetensors")
    whole = stored.read_bytes()
    stored.write_bytes(whole[:keep])
    with pytest.warns(UserWarning, match="cannot be read .*; decoding again"):
        assert torch.equal(decode(paths), first)
    assert stored.read_bytes() == whole


def test_full_disk_costs_only_time(paths: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: dict[str, torch.Tensor], path: Path, **more: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.warns(UserWarning, match="No space left on device.*set PROTOAT_CACHE to a folder with room"):
        images = decode(paths)
    assert images.shape == (600, 3, 4, 3)
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_cache_in_an_impossible_place_costs_only_time(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROTOAT_CACHE", str(paths[0]))
    with pytest.warns(UserWarning, match="could not be kept"):
        assert len(decode(paths)) == 600


def test_what_a_kill_left_is_cleared(paths: list[Path], cache: Path) -> None:
    decode(paths)
    (stored,) = cache.rglob("*.safetensors")
    stored.rename(stored.with_name(f".{stored.name}.partial"))
    (stored.parent / f".{stored.name}.lock").touch()
    decode(paths)
    assert list(cache.rglob("*.*")) == [stored]


def test_readers_and_writers_at_once(paths: list[Path], cache: Path) -> None:
    digests = file_digests(paths)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: decode_once(paths, digests), range(8)))
    assert all(torch.equal(result, results[0]) for result in results)
    assert [path.suffix for path in cache_folder().iterdir()] == [".safetensors"]


def test_default_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROTOAT_CACHE")
    assert cache_folder() == Path.home() / ".cache/protoat/images"
