"""Folders that are not ours: nothing is removed or overwritten in them; and those that a kill left are begun anew."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from protoat.cli import gc, main
from protoat.recipes.reading import read_recipe
from protoat.runs.claims import find_run, is_claimed, is_unbegun
from protoat.runs.cleanup import check_removable, find_waste
from protoat.runs.store import check_free, claim

TEXT = read_recipe("digits-2").text
RESULTS = Path(__file__).parents[2] / "results"
CONDA = "context: {version: 1.0}\npackage: {name: mine}\n"


def put(path: Path, content: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def run_with_weights(folder: Path) -> Path:
    """A run that has ended, as far as its files tell."""
    claim(folder, TEXT, {}, {})
    save_file({"weight": torch.zeros(1)}, folder / "last.safetensors")
    return folder


def snapshot(folder: Path) -> dict[str, object]:
    return {str(path): path.is_file() and path.read_bytes() for path in sorted(folder.rglob("*"))}


FOREIGN: dict[str, Callable[[Path], object]] = {
    "a project with a recipe": lambda folder: (put(folder / "recipe.yaml", TEXT), put(folder / ".git/HEAD")),
    "a conda recipe": lambda folder: put(folder / "recipe.yaml", CONDA),
    "a recipe and notes of a run": lambda folder: (
        put(folder / "recipe.yaml", TEXT),
        put(folder / "run.json", json.dumps({"sessions": [], "num_classes": 2})),
    ),
    "a recipe and a damaged run.json": lambda folder: (
        put(folder / "recipe.yaml", TEXT),
        put(folder / "run.json", "{"),
    ),
    "weights alone": lambda folder: put(folder / "last.safetensors"),
    "a run in a repository": lambda folder: (claim(folder, TEXT, {}, {}), put(folder / ".git/HEAD")),
    "a run that holds another": lambda folder: (claim(folder, TEXT, {}, {}), claim(folder / "inner", TEXT, {}, {})),
    "a folder of runs": lambda folder: claim(folder / "inner", TEXT, {}, {}),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_rm_removes_only_what_a_run_has_made(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "project"
    FOREIGN[kind](folder)
    claim(tmp_path / "run", TEXT, {}, {})
    before = snapshot(tmp_path)
    assert main(["rm", str(tmp_path / "run"), str(folder), "--yes"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert str(folder) in line
    assert snapshot(tmp_path) == before


def test_rm_knows_runs_by_their_mark_and_those_of_before_by_what_they_say(tmp_path: Path) -> None:
    claim(tmp_path / "run", TEXT, {}, {})
    check_removable(tmp_path / "run")
    (tmp_path / "run/recipe.yaml").write_text("data: [")  # damaged, and ours all the same
    check_removable(tmp_path / "run")
    stored = [path.parent for path in RESULTS.rglob("recipe.yaml")]
    assert stored
    for number, folder in enumerate(stored):
        shutil.copytree(folder, tmp_path / str(number))
        check_removable(tmp_path / str(number))


def test_what_lies_in_a_run_is_removed_with_it_only(tmp_path: Path) -> None:
    claim(tmp_path / "run", TEXT, {}, {})
    claim(tmp_path / "run/prototypes", TEXT, {}, {})
    with pytest.raises(ValueError, match=f"lies in the run {tmp_path / 'run'}"):
        check_removable(tmp_path / "run/prototypes")


def test_a_number_is_no_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("digits-2", "digits-abcde", "digits-abcdef", "mnist-012345678901", "a-zzzzzzz"):
        put(Path("runs") / name / "recipe.yaml", TEXT)
    for word in ("2", "abcde", "zzzzzzz", "digits"):
        assert find_run(Path(word)) == Path(word)
    assert find_run(Path("abcdef")) == Path("runs/digits-abcdef")
    assert find_run(Path("012345678901")) == Path("runs/mnist-012345678901")
    assert find_run(Path("digits-2")) == Path("runs/digits-2")
    assert main(["rm", "2", "--yes"]) == 2
    assert Path("runs/digits-2/recipe.yaml").exists()


LEFT: dict[str, Callable[[Path], object]] = {
    "nothing": lambda folder: folder.mkdir(),
    "a lock": lambda folder: put(folder / ".lock"),
    "part of run.json": lambda folder: put(folder / ".run.json.partial", '{"num'),
    "part of recipe.yaml": lambda folder: (
        claim(folder, TEXT, {}, {}),
        (folder / "recipe.yaml").unlink(),
        put(folder / ".recipe.yaml.partial", "data:"),
    ),
    "part of the checksums": lambda folder: put(folder / ".manifest.json.partial", "{"),
    "run.json": lambda folder: (claim(folder, TEXT, {}, {}), (folder / "recipe.yaml").unlink(), put(folder / ".lock")),
    "no checkpoint yet": lambda folder: (folder / "checkpoints/.partial").mkdir(parents=True),
}


@pytest.mark.parametrize("kind", LEFT)
def test_what_a_kill_leaves_at_first_is_begun_anew(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    LEFT[kind](folder)
    claim(folder, TEXT, {"num_classes": 2}, {})
    check_free(folder, TEXT)
    assert is_claimed(folder) and (folder / "recipe.yaml").read_text() == TEXT
    assert not any((folder / f".{name}.partial").exists() for name in ("run.json", "recipe.yaml"))


OTHERS: dict[str, Callable[[Path], object]] = {
    "a file": lambda folder: put(folder / "thesis.tex"),
    "a file in checkpoints": lambda folder: put(folder / "checkpoints/mine.pt"),
    "a run.json of somebody else": lambda folder: put(folder / "run.json", '{"npm": "run"}'),
    "a folder with the name of a part": lambda folder: put(folder / ".run.json.partial/thesis.tex"),
    "a pipe": lambda folder: (folder.mkdir(), os.mkfifo(folder / ".lock")),
    "no folder": put,
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_folder_of_somebody_else_is_refused(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    OTHERS[kind](folder)
    before = snapshot(tmp_path)
    assert not is_unbegun(folder)
    assert main(["train", "--config", "digits-2", "--epochs", "1", "--out", str(folder)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert str(folder) in line
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("command", [["train", "--epochs", "1"], ["evaluate", "{run}"], ["report", "{run}"]])
@pytest.mark.parametrize("place", ["/proc/x", "/dev/null/x", "{loop}/x", "{long}"])
def test_a_place_that_cannot_be_is_said_soon(
    command: list[str], place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RESULTS / next(iter(RESULTS.rglob("recipe.yaml"))).parent
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    place = place.format(loop=tmp_path / "loop", long=tmp_path / (300 * "a"))
    began = time.process_time()
    assert main([*(word.format(run=run) for word in command), "--out", place]) == 2
    assert time.process_time() - began < 10
    assert len([line for line in capsys.readouterr().err.splitlines() if "error:" in line]) == 1


def test_gc_leaves_what_it_cannot_prove_to_be_ours(tmp_path: Path, at_rest: Callable[[Path], None]) -> None:
    store = tmp_path / "store"
    run_with_weights(store / "run")
    put(store / "run/checkpoints/mine/thesis.tex")
    put(store / "run/.thesis.tex.partial")
    put(store / "project/recipe.yaml", CONDA)
    put(store / "project/last.safetensors")
    put(store / "project/checkpoints/00000001/common.safetensors")
    put(store / "project/.run.json.partial")
    put(store / "project/.lock")
    put(store / ".notes-7.removed/thesis.tex")
    put(store / ".jobs/20250101-000000-here-7/thesis.tex")
    put(store / ".locks/mine.lock")
    put(store / f".locks/{64 * 'a'}.lock", "years of work")
    claim(store / "begun", TEXT, {}, {})
    put(store / "begun/.git/HEAD")
    for name in ("thesis.tex", "checkpoints/mine.pt", "prototypes/mine/thesis.tex", "last.safetensors"):
        claim(store / f"with {name.replace('/', ' ')}", TEXT, {}, {})
        put(store / f"with {name.replace('/', ' ')}" / name)
    claim(store / "ours", TEXT, {}, {})
    put(store / "ours/checkpoints/.partial/common.safetensors")
    put(store / "ours/tensorboard/events.out.tfevents.7.here")
    at_rest(tmp_path)
    assert [waste.path for waste in find_waste(store, incomplete=True)] == [store / "ours"]


def test_gc_asks(
    tmp_path: Path,
    at_rest: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_with_weights(tmp_path / "run")
    put(tmp_path / "run/checkpoints/00000001/common.safetensors")
    at_rest(tmp_path)
    checkpoints = tmp_path / "run/checkpoints"
    with pytest.raises(ValueError, match=r"nobody to ask .* write --yes"):
        gc.main([str(tmp_path)])
    assert gc.main([str(tmp_path), "--dry-run"]) == 0 and checkpoints.exists()
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer, code in (("", 1), ("no", 1), ("y", 0)):
        monkeypatch.setattr("builtins.input", lambda _, answer=answer: answer)
        assert checkpoints.exists() and gc.main([str(tmp_path)]) == code
        assert str(checkpoints) in capsys.readouterr().out
    assert not checkpoints.exists() and (tmp_path / "run/last.safetensors").exists()
    assert gc.main([str(tmp_path)]) == 0  # nothing to ask about
