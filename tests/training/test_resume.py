"""A run that is killed and resumed ends where it would have ended."""

from __future__ import annotations

import json
import os
import pickle
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from protoat.attacks import PGD
from protoat.methods import AWP, TRADES
from protoat.modes import discovered
from protoat.modes.clustering import clusters_of
from protoat.training import CheckpointError, FitResult, checkpoint, fit
from protoat.training.run_state import RunState
from tests import kills

KILLS = 5


class Server:
    """Starts training processes through `kill_server.py`."""

    def __init__(self) -> None:
        program = Path(__file__).with_name("kill_server.py")
        self.process = subprocess.Popen(
            [sys.executable, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None and self.process.stdout.readline() == "ready\n"

    def run(self, method: str, out: Path, kill_after: float | None = None) -> tuple[int, float]:
        """Trains, or trains until killed; returns the exit code, negative for a signal, and the processor time."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps([method, str(out), kill_after]) + "\n")
        self.process.stdin.flush()
        code, seconds = json.loads(self.process.stdout.readline())
        return code, seconds


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    started = Server()
    yield started
    with started.process:  # Closes its pipes, so that it sees the end of its input.
        pass
    assert started.process.returncode == 0


@pytest.fixture(scope="module")
def whole(small: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a run that was never interrupted, for each method."""

    @cache
    def run(method: str) -> Path:
        out = tmp_path_factory.mktemp(method)
        small.train(method, out)
        return out

    return run


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the test forks training processes")
@pytest.mark.parametrize("method", ["pgd", "free", "acl", "rocl"])
def test_killed_at_random_moments(method: str, tmp_path: Path, small: ModuleType, server: Server) -> None:
    whole, out = tmp_path / "whole", tmp_path / "killed"
    code, seconds = server.run(method, whole)
    assert code == 0
    for _ in range(KILLS):
        moment = random.uniform(0.02, 0.9 / KILLS) * seconds  # all of them together are no whole run
        assert server.run(method, out, moment)[0] == -signal.SIGPROF
    assert server.run(method, out)[0] == 0
    small.assert_same_outcome(out, whole)


class Killed(BaseException):
    """Stands for SIGKILL where the exact moment matters."""


class Batches:
    """A loader that dies before a given batch of a given epoch."""

    def __init__(self, small: ModuleType, epoch: int, batch: int, **options: Any) -> None:
        self.inner = small.loader(**options)
        self.moment = (epoch, batch)

    def __len__(self) -> int:
        return len(self.inner)

    def set_epoch(self, epoch: int) -> None:
        self.inner.set_epoch(epoch)

    def iterate(self, first: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for index, batch in enumerate(self.inner.iterate(first), start=first):
            if (self.inner.epoch, index) == self.moment:
                raise Killed
            yield batch


@pytest.mark.parametrize(
    ("method", "moment"),
    [
        *[("standard", (2, 1)), ("fast", (1, 3)), ("free", (1, 3)), ("pgd", (0, 1)), ("pgd", (1, 0)), ("pgd", (3, 4))],
        *[
            ("acl", (1, 3)),
            ("rocl", (3, 2)),
            ("known", (1, 3)),
            ("discovered", (1, 4)),
            ("discovered", (2, 0)),
            ("head", (3, 2)),
        ],
    ],
)
def test_killed_before_a_batch(
    method: str, moment: tuple[int, int], tmp_path: Path, small: ModuleType, whole: Callable[[str], Path]
) -> None:
    with pytest.raises(Killed):
        small.train(method, tmp_path, train=Batches(small, *moment, origins=method in small.MODES))
    result = small.train(method, tmp_path)
    small.assert_same_outcome(tmp_path, whole(method))
    assert [line["epoch"] for line in result.metrics] == [1, 2, 3, 4]


@pytest.mark.parametrize("call", [3, 13])  # of twenty: ten classes, at the end of two epochs
def test_killed_while_modes_are_discovered(
    call: int, tmp_path: Path, small: ModuleType, whole: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def dies(*args: Any, **options: Any) -> torch.Tensor:
        calls.append(args)
        if len(calls) == call:
            raise Killed
        return clusters_of(*args, **options)

    monkeypatch.setattr(discovered, "clusters_of", dies)
    with pytest.raises(Killed):
        small.train("discovered", tmp_path)
    small.train("discovered", tmp_path)
    assert len(calls) == 20 + call % 10
    small.assert_same_outcome(tmp_path, whole("discovered"))


@pytest.mark.parametrize("last", [False, True])
def test_killed_as_an_old_checkpoint_is_removed(
    last: bool,
    tmp_path: Path,
    small: ModuleType,
    whole: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    discarded: list[str] = []

    def discard(folder: Any, name: str) -> None:
        discarded.append(name)
        if len(discarded) == (removals if last else 2):
            raise Killed
        remove(folder, name)

    remove = checkpoint._discard
    removals = 0
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "_discard", lambda *arguments: (discarded.append(""), remove(*arguments)))
        small.train("pgd", tmp_path / "counted")
    removals = len(discarded)
    discarded.clear()
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(checkpoint, "_discard", discard)
        small.train("pgd", tmp_path / "killed")
    small.train("pgd", tmp_path / "killed")
    small.assert_same_outcome(tmp_path / "killed", whole("pgd"))


@pytest.mark.parametrize("method", ["acl", "rocl"])
def test_the_projector_is_part_of_a_checkpoint_and_not_of_what_is_exported(
    method: str, small: ModuleType, whole: Callable[[str], Path]
) -> None:
    tensors, _, _ = small.outcome(whole(method))
    projector = [key for key in tensors if ".projector." in key]
    assert projector and all(key.startswith("process-0.safetensors:process.method.") for key in projector)
    _, goal, _ = small.built(method)
    fresh = {f"process-0.safetensors:process.{key}": value for key, value in goal.state_dict().items()}
    assert fresh.keys() == set(projector)
    assert not any(torch.equal(tensors[key], fresh[key]) for key in projector if key.endswith("weight"))


def test_resumes_from_the_end_of_an_epoch(tmp_path: Path, small: ModuleType, whole: Callable[[str], Path]) -> None:
    with pytest.raises(Killed):
        small.train("free", tmp_path, train=Batches(small, 2, 3), checkpoint_every=None)
    assert small.train("free", tmp_path, checkpoint_every=None).updates == 40
    tensors, lines, _ = small.outcome(tmp_path)
    expected_tensors, expected_lines, _ = small.outcome(whole("free"))
    assert all(torch.equal(value, expected_tensors[key]) for key, value in tensors.items())
    assert lines == expected_lines


@pytest.mark.parametrize("options", [{"averaging": 0.9}, {"memory_format": "channels_last"}])
def test_resumes_with_options(options: dict[str, object], tmp_path: Path, small: ModuleType) -> None:
    small.train("pgd", tmp_path / "whole", **options)
    with pytest.raises(Killed):
        small.train("pgd", tmp_path / "killed", train=Batches(small, 2, 3), **options)
    small.train("pgd", tmp_path / "killed", **options)
    small.assert_same_outcome(tmp_path / "killed", tmp_path / "whole")


def test_resumes_with_adam(tmp_path: Path, small: ModuleType) -> None:
    def run(name: str, train: object) -> None:
        net, goal, _ = small.built("free")
        optimizer = torch.optim.Adam([*net.parameters(), *goal.parameters()], lr=0.01, amsgrad=True)
        fit(net, train, goal, epochs=3, optimizer=optimizer, out=tmp_path / name, checkpoint_every=1, loggers=[])

    run("whole", small.loader())
    with pytest.raises(Killed):
        run("killed", Batches(small, 1, 2))
    run("killed", small.loader())
    small.assert_same_outcome(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.parametrize("method", ["pgd", "free"])
def test_killed_at_file_operations(
    method: str, tmp_path: Path, small: ModuleType, whole: Callable[[str], Path]
) -> None:
    """Of all the operations on files of a run, a killed process gets as far as each time a random one."""
    moments = random.Random(method)
    for _ in range(5):
        with pytest.raises(kills.Killed), kills.killed_at(moments.randrange(5, 60)):
            small.train(method, tmp_path)
    small.train(method, tmp_path)
    small.assert_same_outcome(tmp_path, whole(method))


class Noisy(torch.utils.data.Dataset):
    """Draws from torch's global random state, as augmentation in a data set does; may die."""

    def __init__(self, small: ModuleType, dies_after: int | None = None) -> None:
        self.data = small.digits(0, 90)
        self.left = dies_after

    def __len__(self) -> int:
        return len(self.data.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Killed
        image = self.data.images[index].float() / 255
        return (image + 0.05 * torch.rand_like(image)).clamp(0, 1), self.data.labels[index]


def test_resumes_a_torch_data_loader(tmp_path: Path, small: ModuleType) -> None:
    def run(name: str, dies_after: int | None = None) -> None:
        train = torch.utils.data.DataLoader(Noisy(small, dies_after), batch_size=20, shuffle=True)
        small.train("pgd", tmp_path / name, train=train, checkpoint_every=1)

    run("whole")
    with pytest.raises(Killed):
        run("killed", 90 + 50)
    run("killed")
    small.assert_same_outcome(tmp_path / "killed", tmp_path / "whole")


def test_same_seed_same_result_other_seed_other_result(
    tmp_path: Path, small: ModuleType, whole: Callable[[str], Path]
) -> None:
    for name, seed in (("same", 11), ("other", 12)):
        small.train("pgd", tmp_path / name, seed=seed)
    small.assert_same_outcome(tmp_path / "same", whole("pgd"))
    with pytest.raises(AssertionError, match="safetensors"):
        small.assert_same_outcome(tmp_path / "other", whole("pgd"))


@pytest.fixture
def no_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes everything raise that writes or reads a pickle."""

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("a pickle")

    for owner, name in ((pickle, "dump"), (pickle, "dumps"), (pickle, "load"), (pickle, "loads"), (pickle, "Pickler")):
        monkeypatch.setattr(owner, name, refuse)
    monkeypatch.setattr(torch, "save", refuse)
    monkeypatch.setattr(torch, "load", refuse)


def test_another_number_of_threads_is_said(tmp_path: Path, small: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    """It changes the last bits, so a resumed run is no longer exact."""
    with pytest.raises(Killed):
        small.train("pgd", tmp_path, train=Batches(small, 1, 2))
    with pytest.raises(Killed):
        small.train("pgd", tmp_path, train=Batches(small, 1, 3))
    assert not any("threads" in line for line in caplog.messages)
    torch.set_num_threads(2)
    small.train("pgd", tmp_path)
    assert [line.partition(":")[0] for line in caplog.messages if "threads" in line] == [
        "saved on 1 threads and resumed on 2"
    ]


@pytest.mark.usefixtures("no_pickle")
def test_no_pickle_is_written_or_read(tmp_path: Path, small: ModuleType) -> None:
    with pytest.raises(Killed):
        small.train("free", tmp_path, train=Batches(small, 1, 3))
    small.train("free", tmp_path)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".json", ".jsonl", ".safetensors"}


def test_a_finished_run_is_not_trained_again(tmp_path: Path, small: ModuleType) -> None:
    first = small.train("pgd", tmp_path)
    before = small.outcome(tmp_path)
    assert small.train("pgd", tmp_path) == first
    again = small.outcome(tmp_path)
    assert again[1:] == before[1:]


def test_a_torn_log_is_repaired(tmp_path: Path, small: ModuleType, whole: Callable[[str], Path]) -> None:
    with pytest.raises(Killed):
        small.train("pgd", tmp_path / "killed", train=Batches(small, 2, 3))
    with (tmp_path / "killed" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "upd')
    small.train("pgd", tmp_path / "killed")
    small.assert_same_outcome(tmp_path / "killed", whole("pgd"))


@pytest.mark.parametrize("damage", ["truncate", "alter", "state", "missing"])
def test_damaged_checkpoint_falls_back(
    damage: str, tmp_path: Path, small: ModuleType, whole: Callable[[str], Path]
) -> None:
    with pytest.raises(Killed):
        small.train("free", tmp_path / "killed", train=Batches(small, 2, 3))
    newest = max((tmp_path / "killed" / "checkpoints").iterdir())
    target = newest / ("state.json" if damage == "state" else "common.safetensors")
    content = bytearray(target.read_bytes())
    if damage == "missing":
        target.unlink()
    elif damage == "truncate":
        target.write_bytes(content[:-100])
    else:
        # In the JSON half this turns one digit of a number into another, which still parses.
        place = content.index(b'"update": ') + 10 if damage == "state" else len(content) - 50
        content[place] ^= 1
        target.write_bytes(content)
    with pytest.warns(UserWarning, match="skipping a damaged checkpoint"):
        small.train("free", tmp_path / "killed")
    small.assert_same_outcome(tmp_path / "killed", whole("free"))


def test_no_intact_checkpoint_is_an_error(tmp_path: Path, small: ModuleType) -> None:
    small.train("pgd", tmp_path)
    for state in (tmp_path / "checkpoints").glob("*/state.json"):
        state.write_text("{}")
    with pytest.warns(UserWarning), pytest.raises(CheckpointError, match=r"none of the \d checkpoints .* is intact"):
        small.train("pgd", tmp_path)


def test_another_run_is_refused(tmp_path: Path, small: ModuleType) -> None:
    small.train("pgd", tmp_path)
    with pytest.raises(ValueError, match=r"another run .*epochs 4 there, 5 here"):
        small.train("pgd", tmp_path, epochs=5)
    with pytest.raises(ValueError, match="holds checkpoints; write resume=True"):
        small.train("pgd", tmp_path, resume=False)


def test_another_architecture_is_refused_by_name(tmp_path: Path, small: ModuleType) -> None:
    small.train("pgd", tmp_path)
    _, goal, _ = small.built()
    net = small.Net(width=12)
    net.head = torch.nn.Linear(16, 10, bias=False)
    net.extra = torch.nn.Linear(2, 2, bias=False)
    groups = small.parameter_groups(net, goal, lr=0.1, prototype_lr_factor=2.0, weight_decay=5e-4)
    with pytest.raises(ValueError, match="another architecture") as caught:
        fit(
            net,
            small.loader(),
            goal,
            epochs=4,
            optimizer=torch.optim.SGD(groups, momentum=0.9),
            validation=small.digits(200, 220),
            schedule=small.Cyclic(),
            out=tmp_path,
            seed=11,
        )
    message = str(caught.value)
    assert "missing: extra.weight" in message
    assert "unexpected: head.bias" in message
    assert "features.0.weight (8, 1, 3, 3) for (12, 1, 3, 3)" in message
    assert "features.5.weight (16, 128) for (16, 192)" in message


def test_other_prototypes_are_refused_by_name(tmp_path: Path, small: ModuleType) -> None:
    small.train("pgd", tmp_path)
    net, _, _ = small.built()
    goal = small.Objective(small.METHODS["pgd"](), small.SoftTriple(10, 16, prototypes_per_class=2), norm_weight=0.001)
    groups = small.parameter_groups(net, goal, lr=0.1, prototype_lr_factor=2.0)
    with pytest.raises(ValueError, match=r"prototypes_per_class \[4, 4, .* there, \[2, 2, "):
        fit(
            net,
            small.loader(),
            goal,
            epochs=4,
            optimizer=torch.optim.SGD(groups),
            schedule=small.Cyclic(),
            out=tmp_path,
            seed=11,
        )


@pytest.mark.parametrize(
    ("name", "changed"),
    [("method", "Standard, ThreatModel"), ("objective", "[0.25, "), ("optimizer", "Adam")],
)
def test_another_method_objective_or_optimizer_is_refused(
    name: str, changed: str, tmp_path: Path, small: ModuleType
) -> None:
    small.train("pgd", tmp_path)
    net, goal, optimizer = small.built("standard" if name == "method" else "pgd")
    if name == "objective":
        goal.weight = 0.25
    if name == "optimizer":
        optimizer = torch.optim.Adam(small.parameter_groups(net, goal, lr=0.1, prototype_lr_factor=2.0))
    options = {"epochs": 4, "schedule": small.Cyclic(), "out": tmp_path, "seed": 11}
    with pytest.raises(ValueError, match=rf"{name} .* there, {re.escape(changed)}"):
        fit(net, small.loader(), goal, optimizer=optimizer, **options)


def settled(small: ModuleType, out: Path, **changed: Any) -> FitResult:
    """A short run; `changed` are settings that a folder of the plain one must not be resumed with."""
    torch.manual_seed(0)
    net = small.Net()
    method = TRADES(small.THREAT, beta=changed.get("beta", 6.0), steps=changed.get("steps", 2))
    if "gamma" in changed:
        method = AWP(small.THREAT, method=partial(TRADES, beta=6.0, steps=2), gamma=changed["gamma"])
    metric = small.SoftTriple(10, 16, prototypes_per_class=4, scale=changed.get("scale", 20.0))
    goal = small.Objective(method, metric)
    groups = small.parameter_groups(net, goal, lr=0.1, weight_decay=changed.get("weight_decay", 0.0))
    optimizer = torch.optim.SGD(groups, momentum=changed.get("momentum", 0.9))
    attack = PGD(small.THREAT, steps=changed.get("validation_steps", 2))
    return fit(
        net,
        small.loader(80),
        goal,
        epochs=1,
        optimizer=optimizer,
        validation=small.digits(200, 220),
        validation_attack=attack,
        out=out,
        loggers=[],
    )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"beta": 1.0}, "method settings beta 6.0 there, 1.0 here"),
        ({"steps": 10}, "method settings attack steps 2 there, 10 here"),
        ({"scale": 5.0}, "regularizer settings scale 20.0 there, 5.0 here"),
        ({"weight_decay": 5e-2}, "optimizer settings group 0 weight_decay 0.0 there, 0.05 here"),
        ({"momentum": 0.5}, "optimizer settings group 1 momentum 0.9 there, 0.5 here"),
        ({"validation_steps": 3}, "validation attack steps 2 there, 3 here"),
    ],
)
def test_a_changed_setting_is_refused_and_named(
    changed: dict[str, Any], said: str, tmp_path: Path, small: ModuleType
) -> None:
    assert settled(small, tmp_path).updates == settled(small, tmp_path).updates == 2
    with pytest.raises(ValueError, match=re.escape(said)):
        settled(small, tmp_path, **changed)


def test_a_method_inside_another_counts_too(tmp_path: Path, small: ModuleType) -> None:
    settled(small, tmp_path, gamma=0.01)
    with pytest.raises(ValueError, match=r"method settings gamma 0\.01 there, 0\.005 here"):
        settled(small, tmp_path, gamma=0.005)


def test_a_checkpoint_that_knows_fewer_settings_is_resumed() -> None:
    state = RunState({"epochs": 2, "method settings": {"beta": 6.0, "steps": 2}})
    state.resume({**asdict(state), "identity": {"epochs": 2}, "epoch": 1})
    assert state.epoch == 1


def test_objects_that_were_trained_are_those_of_the_same_run(tmp_path: Path, small: ModuleType) -> None:
    net, goal, optimizer = small.built("fast")
    options = {"epochs": 3, "schedule": small.Cyclic(), "out": tmp_path, "loggers": []}
    first = fit(net, small.loader(80), goal, optimizer=optimizer, **options)
    assert goal.regularizer.active.sum() < goal.regularizer.active.numel()
    assert fit(net, small.loader(80), goal, optimizer=optimizer, **options) == first
