"""The manifest of a folder: right after a kill at any file operation, and the only judge of what lies beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protoat.storage import files, manifest
from protoat.storage.manifest import MANIFEST, Log, checksums, read_record_bytes, rename_record, write_record


class Killed(BaseException):
    """Stands for a kill: nothing of ours catches it."""


@pytest.fixture
def kill_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Has the operation of this number, counted from now, not happen, and all after it."""
    left: list[int] = []

    def dying(operation: Callable[..., None]) -> Callable[..., None]:
        def run(*args: object, **options: object) -> None:
            if left:
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
            operation(*args, **options)

        return run

    monkeypatch.setattr(files.Folder, "write_new", dying(files.Folder.write_new))
    monkeypatch.setattr(manifest, "append", dying(files.append))
    monkeypatch.setattr(files.Folder, "rename", dying(files.Folder.rename))
    yield lambda number: left.__setitem__(slice(None), [number])
    left.clear()


def until_it_ends(kill_at: Callable[[int], None], prepare: Callable[[], Callable[[], None]]) -> Iterator[int]:
    """Prepares and kills at each operation in turn, up to the run that nothing kills; yields after each."""
    for number in range(50):
        kill_at(10**6)
        action = prepare()
        kill_at(number)
        try:
            action()
        except Killed:
            kill_at(10**6)
            yield number
        else:
            kill_at(10**6)
            assert number > 1
            yield number
            return
    raise AssertionError("it never ended")


@pytest.mark.parametrize("listed", [True, False])
def test_a_kill_at_any_moment_leaves_the_old_file_or_the_new_one(
    tmp_path: Path, kill_at: Callable[[int], None], listed: bool
) -> None:
    path, seen = tmp_path / "best.json", set()

    def prepare() -> Callable[[], None]:
        files.remove(tmp_path / MANIFEST)
        write_record(path, b"old") if listed else files.write(path, b"old")
        return lambda: write_record(path, b"new")

    for _ in until_it_ends(kill_at, prepare):
        seen.add(read_record_bytes(path))
        write_record(path, b"later")  # and the folder can be gone on with
        assert read_record_bytes(path) == b"later" and len(checksums(tmp_path)[path.name]) == 1
    assert seen == {b"old", b"new"}


def test_a_kill_while_a_log_grows_leaves_whole_lines_that_are_right(
    tmp_path: Path, kill_at: Callable[[int], None]
) -> None:
    path, seen = tmp_path / "metrics.jsonl", set()

    def prepare() -> Callable[[], None]:
        log = Log(path, b"one\n")

        def grow() -> None:
            for line in (b"two\n", b"three\n"):
                log.append(line)

        return grow

    for _ in until_it_ends(kill_at, prepare):
        seen.add(read_record_bytes(path, lines=True))
    assert seen == {b"one\n", b"one\ntwo\n", b"one\ntwo\nthree\n"}
    path.write_bytes(b"one\ntwo\nthr")
    with pytest.raises(ValueError, match=r"metrics\.jsonl is damaged"):
        read_record_bytes(path, lines=True)


def test_a_kill_while_a_file_gets_another_name_leaves_both_readable(
    tmp_path: Path, kill_at: Callable[[int], None]
) -> None:
    old, new = tmp_path / "evaluation.json", tmp_path / "evaluation-1.json"

    def prepare() -> Callable[[], None]:
        write_record(old, b"now")
        write_record(new, b"before")
        return lambda: rename_record(old, new.name)

    for _ in until_it_ends(kill_at, prepare):
        found = read_record_bytes(old) if old.exists() else None
        assert (found, read_record_bytes(new)) in ((b"now", b"before"), (None, b"now"))


def flipped(content: bytes) -> bytes:
    return bytes([content[0] ^ 1]) + content[1:]


@pytest.mark.parametrize(
    "damage", [flipped, lambda content: content[:-1], lambda content: b"", lambda content: bytes(len(content))]
)
@pytest.mark.parametrize("name", ["run.json", MANIFEST])
def test_damage_is_named_with_its_file(tmp_path: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    write_record(tmp_path / "run.json", b'{"shape": [1, 8, 8]}')
    (tmp_path / name).write_bytes(damage((tmp_path / name).read_bytes()))
    with pytest.raises(ValueError, match=rf"{name} is damaged"):
        read_record_bytes(tmp_path / "run.json")


def test_every_byte_of_a_manifest_counts(tmp_path: Path) -> None:
    write_record(tmp_path / "run.json", b"{}")
    path = tmp_path / MANIFEST
    whole, listed = path.read_bytes(), checksums(tmp_path)
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            assert checksums(tmp_path) == listed  # a blank that became another one
        except ValueError as error:
            assert MANIFEST in str(error)


def test_files_of_earlier_versions_are_read_without_a_checksum(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("seed: 0")
    write_record(tmp_path / "run.json", b"{}")
    assert read_record_bytes(tmp_path / "recipe.yaml") == b"seed: 0"
    assert "run.json" in checksums(tmp_path) and "recipe.yaml" not in checksums(tmp_path)


def test_a_file_that_was_taken_away_is_no_damage(tmp_path: Path) -> None:
    write_record(tmp_path / "last.safetensors", b"weights")
    (tmp_path / "last.safetensors").unlink()
    with pytest.raises(FileNotFoundError):
        read_record_bytes(tmp_path / "last.safetensors")
    write_record(tmp_path / "last.safetensors", b"others")
    assert read_record_bytes(tmp_path / "last.safetensors") == b"others"


@pytest.mark.parametrize("content", ["[]", "{}", '{"files": {"a": []}, "sha256": 1}', '{"files": [], "sha256": "x"}'])
def test_what_is_no_manifest_is_refused(tmp_path: Path, content: str) -> None:
    json.loads(content)
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        checksums(tmp_path)
