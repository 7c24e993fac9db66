"""Killed at whatever operation on a file: the same command again ends bit for bit as if nothing had happened."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from protoat import Objective, fit
from protoat.data import ImageData
from protoat.methods import PGDAT
from protoat.recipes.reading import read_recipe
from protoat.runs.cleanup import find_waste, remove
from protoat.runs.measure import measure
from protoat.runs.run import Run, list_runs
from protoat.runs.store import claim
from protoat.runs.train import train
from protoat.threats import Linf
from tests.kills import Killed, killed_at

SMALL = ("--train_size", "128", "--validation_size", "50", "--batch_size", "128")
RECIPE = read_recipe("digits-2", ["--epochs", "1", "--method.steps", "1", "--schedule", "none", *SMALL])
_NOT_COMPARED = {"manifest.json", "state.json", ".lock"}
_TIMES = {"seconds", "started", "sessions", "measured"}


def outcome(folder: Path) -> dict[str, Any]:
    """All that a folder holds but times, checksums of what holds times, a lock that nobody holds, and checkpoints that
    a newer one replaces."""
    found, newest = {}, max([path.name for path in folder.glob("checkpoints/[0-9]*")], default="")
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        replaced = name.startswith("checkpoints/") and not name.startswith(f"checkpoints/{newest}/")
        if path.is_dir() or replaced or name.startswith("tensorboard/") or path.name in _NOT_COMPARED:
            continue
        content = path.read_bytes()
        if path.suffix == ".jsonl":
            found[name] = [_timeless(json.loads(line)) for line in content.splitlines()]
        else:
            found[name] = _timeless(json.loads(content)) if path.suffix == ".json" else content
    return found


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(each) for key, each in value.items() if key not in _TIMES}
    return [_timeless(each) for each in value] if isinstance(value, list) else value


def every_kill(
    act: Callable[[Path], object], folder: Path, start: Path | None, moments: Iterable[int]
) -> Iterator[int]:
    """Moments of kills, when `act` was killed at this operation and then called again; until `act` outruns the kill."""
    for moment in moments:
        shutil.rmtree(folder, ignore_errors=True)
        if start is not None:
            shutil.copytree(start, folder)
        finished = False
        with suppress(Killed), killed_at(moment):
            act(folder)
            finished = True
        act(folder)
        yield moment
        if finished:
            return
    raise AssertionError("it never ended")


def assert_each_ends_the_same(
    act: Callable[[Path], object], tmp_path: Path, moments: Iterable[int], start: Path | None = None
) -> int:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    if start is not None:
        shutil.copytree(start, whole)
    act(whole)
    expected = outcome(whole)
    kills = 0
    for moment in every_kill(act, killed, start, moments):
        assert outcome(killed) == expected, f"after a kill at operation {moment}"
        kills += 1
    return kills


def every(step: int) -> Iterable[int]:
    return range(0, 10_000, step)


def between(step: int) -> Iterable[int]:
    """All that `every` leaves out."""
    return (moment for moment in range(10_000) if moment % step)


def test_claim(tmp_path: Path) -> None:
    def act(folder: Path) -> None:
        claim(folder, RECIPE.text, {"num_classes": 2}, {"started": "now"})

    assert assert_each_ends_the_same(act, tmp_path, every(1)) > 10


def images(count: int) -> ImageData:
    made = torch.randint(256, (count, 1, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    return ImageData(made, torch.arange(count) % 2, ("0", "1"))


def fitted(folder: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    held_out, batches = images(8), [(images(16).images / 255, torch.arange(16) % 2)] * 2
    goal = Objective(PGDAT(Linf(0.1), steps=1))
    options = {"epochs": 2, "validation": held_out, "out": folder, "loggers": [], "progress": False}
    fit(net, batches, goal, optimizer=optimizer, **options)


def test_fit(tmp_path: Path) -> None:
    assert assert_each_ends_the_same(fitted, tmp_path, every(4)) > 12


@pytest.mark.slow
def test_fit_at_all_other_operations(tmp_path: Path) -> None:
    assert assert_each_ends_the_same(fitted, tmp_path, between(4)) > 37


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(RECIPE, folder, progress=False)
    return folder


def evaluated(folder: Path) -> None:
    measure(Run(folder).subject(), ["clean", "fgsm"], limit=60, batch_size=30)


def test_evaluate(trained: Path, tmp_path: Path) -> None:
    assert assert_each_ends_the_same(evaluated, tmp_path, every(5), trained) > 5


def test_rm(trained: Path, tmp_path: Path, at_rest: Callable[[Path], None]) -> None:
    """What a kill leaves of a run is no run, or all of it; and `gc` takes the rest."""
    store = tmp_path / "store"
    for moment in range(10_000):
        shutil.copytree(trained, store / "run")
        finished = False
        with suppress(Killed), killed_at(moment):
            remove(store / "run")
            finished = True
        if (store / "run").exists():
            assert outcome(store / "run") == outcome(trained)
            remove(store / "run")
        assert list_runs(store) == []
        at_rest(store)
        for waste in find_waste(store):
            remove(waste.path)
        assert list(store.iterdir()) == []
        if finished:
            break
    assert moment > 10


@pytest.mark.slow
def test_evaluate_at_all_other_operations(trained: Path, tmp_path: Path) -> None:
    assert assert_each_ends_the_same(evaluated, tmp_path, between(5), trained) > 15


def trained_anew(folder: Path) -> None:
    if not (folder / "recipe.yaml").exists() or not Run(folder).complete:
        train(RECIPE, folder, progress=False)


def test_train(tmp_path: Path) -> None:
    assert assert_each_ends_the_same(trained_anew, tmp_path, every(23)) > 3


@pytest.mark.slow
def test_train_at_all_other_operations(tmp_path: Path) -> None:
    assert assert_each_ends_the_same(trained_anew, tmp_path, between(23)) > 57
