"""What ``protoat rm`` and ``protoat gc`` take away, and above all what they leave."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

import pytest
from filelock import FileLock

from protoat.cli import gc, rm
from protoat.recipes.reading import read_recipe
from protoat.runs.cleanup import check_removable, find_waste, remove, size
from protoat.runs.store import claim
from protoat.storage.files import Folder
from protoat.storage.locks import working_on
from protoat.training import DiskError
from tests.whole import edit, weights

HOST = platform.node()
LOCK_OF_A_JOB = f".locks/{64 * 'a'}.lock"
ENDED = f"20250101-000000-{HOST}-{2**22 + 1}"  # above the highest number of a process
TEXTS = [read_recipe("digits", ["--seed", str(seed)]).text for seed in range(4)]


def write(path: Path, content: bytes = b"x" * 10) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def at_rest(folder: Path, seconds: float = 3600.0) -> None:
    then = time.time() - seconds
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (then, then))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A complete run, one that was interrupted, one that was interrupted while it was measured, and a mere record."""
    store = tmp_path / "store"
    for text, name in zip(TEXTS, ("done", "interrupted", "measuring", "record"), strict=True):
        claim(store / name, text, {}, {})
    for name in ("done", "interrupted"):
        write(store / name / "checkpoints/00000007/common.safetensors", b"x" * 1000)
    for name in ("done", "measuring"):
        weights(store / name / "last.safetensors")
    write(store / "done/evaluation.json", b"{}")
    write(store / "record/evaluation.json", b"{}")
    write(store / f"measuring/evaluation.partial/{32 * 'a'}.json")
    write(store / "done/.evaluation.json.partial")
    claim(store / ".gone-7.removed", "data: {class_path: protoat.data.Digits}", {}, {})
    (store / ".gone-7.removed/recipe.yaml").unlink()
    write(store / ".gone-7.removed/last.safetensors")
    for logs in (ENDED, f"20250101-000000-{HOST}-{os.getpid()}", f"20250101-000000-other-node-{2**22 + 1}"):
        write(store / f".jobs/{logs}/1_0_log.err")
    write(store / LOCK_OF_A_JOB, b"")
    write(store / "interrupted/.lock", b"")  # its process was killed
    at_rest(store, 2 * 86400)
    return store


def wasted(store: Path, *, incomplete: bool = False) -> set[str]:
    return {str(waste.path.relative_to(store)) for waste in find_waste(store, incomplete=incomplete)}


ALWAYS = {
    "done/checkpoints",
    "done/.evaluation.json.partial",
    ".gone-7.removed",
    f".jobs/{ENDED}",
    LOCK_OF_A_JOB,
    "interrupted/.lock",
}


def test_what_nobody_needs(store: Path) -> None:
    assert wasted(store) == ALWAYS
    assert wasted(store, incomplete=True) == ALWAYS - {"interrupted/.lock"} | {
        "interrupted",
        "measuring/evaluation.partial",
    }


def test_what_is_in_use_stays(store: Path) -> None:
    os.utime(store / "interrupted/checkpoints/00000007/common.safetensors")
    os.utime(store / "done/.evaluation.json.partial")
    with FileLock(store / LOCK_OF_A_JOB), working_on(store / "done"):
        assert wasted(store, incomplete=True) == {
            ".gone-7.removed",
            f".jobs/{ENDED}",
            "interrupted/.lock",
            "measuring/evaluation.partial",
        }
        for path in (store / LOCK_OF_A_JOB, store / "done"):
            with pytest.raises(ValueError, match="process is at work on"):
                remove(path)
            assert path.exists()
        with pytest.raises(ValueError, match="a process is at work on"):
            check_removable(store / "done")
    check_removable(store / "done")


def test_a_run_at_work_stays_however_long_its_epoch_takes(store: Path) -> None:
    with FileLock(store / "interrupted/.lock"):
        assert not [path for path in wasted(store, incomplete=True) if path.startswith("interrupted")]
    with working_on(store / "done/prototypes"), pytest.raises(ValueError, match="a process is at work on"):
        check_removable(store / "done")


def test_gc_goes_on_where_a_process_has_just_begun(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = find_waste(store, incomplete=True)
    monkeypatch.setattr(gc, "find_waste", lambda *_, **__: found)
    with working_on(store / "interrupted"):
        gc.main([str(store), "--incomplete", "--yes"])
    assert f"process is at work on {store / 'interrupted'}" in capsys.readouterr().out
    assert (store / "interrupted/recipe.yaml").exists()
    assert not (store / "done/checkpoints").exists()


def test_a_damaged_run_is_for_the_user_to_remove(store: Path) -> None:
    edit(store / "interrupted/recipe.yaml", "data: [")
    at_rest(store)
    assert "interrupted" not in wasted(store, incomplete=True)
    check_removable(store / "interrupted")


def test_gc_removes_and_says_how_much(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    freed = sum(waste.bytes for waste in find_waste(store))
    before = size(store)
    gc.main([str(store), "--dry-run"])
    assert f"{freed} bytes would be freed" in capsys.readouterr().out
    assert size(store) == before
    gc.main([str(store), "--yes"])
    shown = capsys.readouterr().out
    assert f"{store / 'done/checkpoints'}: checkpoints of a complete run, 1000 bytes" in shown
    assert shown.endswith(f"{freed} bytes freed\n")
    assert before - size(store) == freed > 1000
    gc.main([str(store), "--yes"])
    assert capsys.readouterr().out == "0 bytes freed\n"
    with pytest.raises(ValueError, match="there is no folder"):
        gc.main([str(store / "nowhere")])


def test_rm_removes_runs_and_nothing_else(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rm.main([str(store / "done"), str(store / "record"), str(store / "done"), "--yes"]) == 0
    assert sorted(path.name for path in store.glob("[!.]*")) == ["interrupted", "measuring"]
    assert not list(store.glob(".done*"))
    assert capsys.readouterr().out.count("removed ") == 2


def test_rm_takes_the_folder_it_stands_in_once(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(store / "done")
    assert rm.main([".", "../done", "--yes"]) == 0
    assert not (store / "done").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [(".", "is not a run folder"), ("done/checkpoints", "is not a run folder"), ("link", "is not a run folder")],
)
def test_rm_refuses_all_else_and_then_removes_nothing(store: Path, name: str, message: str) -> None:
    (store / "link").symlink_to(store / "done")
    with pytest.raises(ValueError, match=message):
        rm.main([str(store / "record"), str(store / name), "--yes"])
    assert (store / "record/recipe.yaml").exists()


def test_rm_refuses_a_folder_of_runs(store: Path) -> None:
    claim(store / "done/inner", TEXTS[0], {}, {})
    with pytest.raises(ValueError, match="holds other runs"):
        rm.main([str(store / "done"), "--yes"])


def test_rm_asks(store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="nobody to ask whether to remove runs for good; write --yes"):
        rm.main([str(store / "done")])
    assert capsys.readouterr().out == ""
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer, code in (("", 1), ("no", 1), ("y", 0)):
        monkeypatch.setattr("builtins.input", lambda _, answer=answer: answer)
        assert (store / "done").exists()
        assert rm.main([str(store / "done")]) == code
    assert not (store / "done").exists()
    assert capsys.readouterr().out.endswith(f"removed {store / 'done'}\n")


def test_what_cannot_be_removed_is_said(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Folder.remove

    def refuses(folder: Folder, name: str) -> None:
        if name == "last.safetensors":
            raise PermissionError(13, "Permission denied")
        whole(folder, name)

    monkeypatch.setattr(Folder, "remove", refuses)
    with pytest.raises(DiskError, match="Permission denied"):
        remove(store / "done")
    (half,) = store.glob(".done-*.removed")
    assert not (half / "recipe.yaml").exists()
    monkeypatch.undo()
    at_rest(half)
    assert half.name in wasted(store)
    remove(half)
    assert not half.exists()
