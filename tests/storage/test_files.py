"""What is written appears whole, in the folder that was named, whatever lies in the way."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import protoat
from protoat.storage import files


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of the user's, outside."""
    path = tmp_path / "home/thesis.tex"
    path.parent.mkdir()
    path.write_bytes(b"years of work")
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_a_file_is_written_whole_and_replaced(run: Path) -> None:
    target = run / "a/b/record.json"
    (run / "a/b").mkdir(parents=True)
    (run / "a/b/.record.json.partial").write_bytes(b"what a kill left")
    for content in (b"one", b"", b"two" * 100_000):
        files.write(target, content, within=run)
        assert target.read_bytes() == content == files.read_bytes(target, limit=len(content), within=run)
    files.append(target, b"!")
    assert target.read_bytes() == b"two" * 100_000 + b"!"
    files.rename(target, "other.json")
    assert names(run) == ["a", "b", "other.json"]


def test_the_folder_itself_may_be_reached_by_links(run: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run)
    files.write(tmp_path / "link/a/x", b"1", within=tmp_path / "link")
    assert (run / "a/x").read_bytes() == b"1" == files.read_bytes(tmp_path / "link/a/x", limit=1)


ACTIONS: dict[str, Callable[[Path, Path], object]] = {
    "write": lambda path, run: files.write(path, b"x", within=run),
    "append": lambda path, run: files.append(path, b"x", within=run),
    "read": lambda path, run: files.read_bytes(path, limit=100, within=run),
}


KINDS = ["link", "dangling", "folder", "pipe", "folder by link"]


@pytest.mark.parametrize(
    ("act", "kind"), [*((act, kind) for act in ACTIONS for kind in KINDS), ("write", "partial by link")]
)
def test_what_lies_in_the_way_is_refused_and_stays(act: str, kind: str, run: Path, secret: Path) -> None:
    path, in_the_way = run / "sub/metrics.jsonl", run / "sub/metrics.jsonl"
    if kind == "folder by link":
        in_the_way = run / "sub"
        in_the_way.symlink_to(secret.parent)
    else:
        path.parent.mkdir()
    if kind == "link":
        path.symlink_to(secret)
    elif kind == "dangling":
        path.symlink_to(secret.with_name("new"))
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "partial by link":
        in_the_way = path.with_name(".metrics.jsonl.partial")
        in_the_way.symlink_to(secret)
    before = os.lstat(in_the_way)
    with pytest.raises(ValueError, match=f"{in_the_way} is ") as said:
        ACTIONS[act](path, run)
    assert "\n" not in str(said.value)
    assert os.lstat(in_the_way) == before
    assert secret.read_bytes() == b"years of work" and names(secret.parent) == ["thesis.tex"]


def test_reading_is_bounded(run: Path) -> None:
    (run / "big").write_bytes(b"x" * 11)
    with pytest.raises(ValueError, match="big is longer than 10 bytes"):
        files.read_bytes(run / "big", limit=10)
    with pytest.raises(ValueError, match="/dev/zero is no regular file"):
        files.read_bytes(Path("/dev/zero"), limit=10)
    for absent in (run / "none", run / "none/none"):
        with pytest.raises(FileNotFoundError, match=f"there is no file {absent}"):
            files.read_bytes(absent, limit=10)
    with pytest.raises(ValueError, match="big/x cannot be read: Not a directory"):
        files.read_bytes(run / "big/x", limit=10)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_named(run: Path) -> None:
    (run / "x").write_bytes(b"")
    (run / "x").chmod(0)
    with pytest.raises(ValueError, match="x cannot be read: Permission denied"):
        files.read_bytes(run / "x", limit=10)


def test_removing_never_leaves_the_folder(run: Path, secret: Path) -> None:
    (run / "old/deep").mkdir(parents=True)
    (run / "old/deep/link").symlink_to(secret.parent)
    (run / "old/link").symlink_to(secret)
    files.remove(run / "old", within=run)
    files.remove(run / "old", within=run)
    files.remove(run / "none/none")
    assert names(run) == [] and secret.exists()


def test_a_folder_for_others_holds_no_links(run: Path, secret: Path) -> None:
    files.check_no_links(run / "board", within=run)
    (run / "board/deep").mkdir(parents=True)
    (run / "board/deep/events").write_bytes(b"")
    files.check_no_links(run / "board", within=run)
    (run / "board/deep/link").symlink_to(secret)
    with pytest.raises(ValueError, match="deep/link is a link"):
        files.check_no_links(run / "board", within=run)
    (run / "linked").symlink_to(secret.parent)
    with pytest.raises(ValueError, match="linked is a link"):
        files.check_no_links(run / "linked", within=run)


def test_a_failed_write_leaves_the_old_file(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write(run / "best.json", b"old")

    def full(folder: files.Folder, name: str, content: bytes) -> None:
        (folder.path / name).write_bytes(content[:1])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.Folder, "write_new", full)
    with pytest.raises(OSError, match="No space"):
        files.write(run / "best.json", b"new")
    assert names(run) == ["best.json"] and (run / "best.json").read_bytes() == b"old"


def test_without_handles_links_are_refused_all_the_same(
    run: Path, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a system that can open nothing by a handle; there the look comes before, not with the opening."""
    monkeypatch.setattr(files, "_HANDLES", False)
    test_a_file_is_written_whole_and_replaced(run)
    test_a_folder_for_others_holds_no_links(run, secret)
    (run / "x").symlink_to(secret)
    for act in ACTIONS.values():
        with pytest.raises(ValueError, match="x is a link"):
            act(run / "x", run)
    assert secret.read_bytes() == b"years of work"


WRITES = {"mkdir", "mkdtemp", "rmtree", "save_file", "savefig", "touch", "unlink", "write_bytes", "write_text"}
PACKAGE = Path(protoat.__file__).parent
# Folders that are the user's own and no run's: of the system, of the cache, of a data set, of --out before any work;
# and plots, which are saved into memory.
ELSEWHERE = {"plots/plot.py", "data/cache.py", "data/tiny_imagenet.py", "storage/path_checks.py"}


def writes(source: str) -> list[str]:
    """Calls that make, fill or remove files by their path."""
    found = []
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call):
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        constants = [each.value for each in ast.walk(call) if isinstance(each, ast.Constant)]
        modes = [str(each) for each in constants if set(str(each)) <= set("rwxab+t")]
        opens = name in ("open", "fdopen") and any(set(mode) & set("wxa+") for mode in modes)
        if name in WRITES or opens:
            found.append(f"line {call.lineno}: {ast.unparse(call)}")
    return found


def test_nothing_else_writes() -> None:
    sources = {str(path.relative_to(PACKAGE)): path.read_text() for path in PACKAGE.rglob("*.py")}
    assert {name for name, source in sources.items() if writes(source)} - ELSEWHERE == {"storage/files.py"}


@pytest.mark.parametrize("line", ["open(path, 'w')", "path.open(mode='ab')", "path.write_text('')", "shutil.rmtree(x)"])
def test_what_else_would_write_is_seen(line: str) -> None:
    assert len(writes(line)) == 1
    assert writes("open(path)\nopen(path, 'rb')\ntext.replace('a', 'b')") == []
