"""What a run cannot be made of is said before anything is written; what can be meant is done."""

from __future__ import annotations

import json
import logging
import multiprocessing
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import protoat as pa
from protoat.methods import AWP, CFA, PGDAT, BiaMAT, Standard
from protoat.regularizers import SoftTriple
from protoat.storage.locks import working_on
from protoat.training import EMA, SWA, StepDecay, WarmupCosine, fit, load_weights

THREAT = pa.Linf(0.1)
X, Y = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
BATCHES = [(X[:6], Y[:6]), (X[6:], Y[6:])]
DATA = pa.data.ImageData((X * 255).byte(), Y, ("a", "b", "c"))


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3))


def train(net: nn.Module | None = None, optimizer: Any = None, **options: Any) -> Any:
    net = net or small()
    goal = options.pop("objective", None) or pa.Objective(options.pop("method", None) or Standard(THREAT))
    optimizer = optimizer or torch.optim.SGD([*net.parameters(), *goal.parameters()], lr=0.1)
    return fit(net, BATCHES, goal, optimizer=optimizer, **{"epochs": 1, "loggers": [], **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 1.5}, "epochs=1.5"),
        ({"epochs": True}, "epochs=True"),
        ({"epochs": "3"}, "epochs='3'"),
        ({"epochs": 10**12}, "epochs=1000000000000 is outside 1 to 1000000"),
        ({"epochs": float("nan")}, "epochs=nan"),
        ({"validate_every": 0.5}, "validate_every=0.5"),
        ({"checkpoint_every": 2.5}, "checkpoint_every=2.5"),
        ({"seed": "a"}, "seed='a'"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**63}, "seed=9223372036854775808"),
        ({"seed": 1.0}, "seed=1.0"),
        ({"memory_format": "x"}, "memory_format='x'"),
        ({"memory_format": torch.channels_last}, "memory_format"),
        ({"clip_norm": float("nan")}, "clip_norm=nan"),
        ({"clip_norm": float("inf")}, "clip_norm=inf"),
        ({"averaging": float("nan")}, "averaging=nan"),
        ({"averaging": True}, "averaging=True"),
        ({"averaging": "ema"}, "averaging='ema'"),
        ({"compile": "false"}, "compile='false'"),
        ({"resume": "no"}, "resume='no'"),
        ({"resume": None}, "resume=None"),
        ({"loggers": "wandb"}, "loggers is a str"),
        ({"loggers": ["neptune"]}, "logger .neptune. is unknown; write one of tensorboard, wandb"),
        ({"progress": "yes"}, "progress='yes'"),
        ({"schedule": 0.1}, "schedule is a float"),
        ({"schedule": StepDecay}, "StepDecay itself"),
        ({"validation": 3}, "validation is a int"),
        ({"validation": [], "epochs": 2}, "validation holds no images"),
        ({"validation": [(X, Y)], "validation_attack": "pgd"}, "validation_attack is a str"),
        ({"accelerator": "cpu"}, "accelerator is a str"),
        ({"objective": Standard(THREAT)}, "objective is a Standard"),
        ({"method": Standard(THREAT), "schedule": WarmupCosine(warmup_epochs=3)}, "warmup_epochs=3"),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),  # objects have addresses, which differ
)
def test_settings_that_cannot_be_meant(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        train(
            optimizer=torch.optim.SGD(small().parameters(), lr=0.1) if "objective" in options else None,
            **options,
            out=tmp_path,
        )
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_an_out_that_is_no_path() -> None:
    with pytest.raises(ValueError, match="out is a int"):
        train(out=3)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (torch.optim.LBFGS, "LBFGS calls the loss"),
        (torch.optim.SparseAdam, "SparseAdam"),
        (partial(torch.optim.SGD, lr=0.0), "every learning rate"),
        (partial(torch.optim.SGD, lr=float("nan")), "lr of group 0=nan"),
        (partial(torch.optim.SGD, lr=float("inf")), "lr of group 0=inf"),
        (partial(torch.optim.SGD, lr=0.1, momentum=float("inf")), "momentum=inf"),
        (partial(torch.optim.Adam, weight_decay=float("inf")), "weight_decay=inf"),
        (list, "optimizer is a list"),
        (lambda parameters: torch.optim.SGD, "optimizer is a"),
    ],
)
def test_optimizers_that_cannot_serve(build: Callable[[Any], Any], message: str, tmp_path: Path) -> None:
    net = small()
    with pytest.raises(ValueError, match=message):
        train(net, build(net.parameters()), out=tmp_path)
    assert not list(tmp_path.iterdir())


class Raises(nn.Module):
    """Raises an error in a forward in training of this number."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.network, self.at, self.forwards = small(), at, 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += self.training
        if self.forwards == self.at:
            raise RuntimeError("no more")
        return self.network(x)


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("failing", [lambda: Raises(1), lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 2))])
def test_an_error_before_the_first_step_leaves_the_folder_as_it_was(
    failing: Callable[[], nn.Module], there: bool, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    if there:
        out.mkdir()
    with pytest.raises((RuntimeError, ValueError), match=r"no more|labels run up to 2"):
        train(failing(), out=out)
    assert out.exists() == there and not list(tmp_path.rglob("*/*"))
    assert train(method=PGDAT(THREAT, steps=1), out=out).updates == 2  # a run of its own, with other settings


def test_an_error_after_a_step_or_in_a_used_folder_leaves_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").touch()
    for name, at in (("used", 1), ("stepped", 2)):
        with pytest.raises(RuntimeError, match="no more"):
            train(Raises(at), out=tmp_path / name)
        assert (tmp_path / name / "checkpoints").is_dir()
    with pytest.raises(RuntimeError, match="no more"):
        train(Raises(1), out=tmp_path / "stepped")
    assert (tmp_path / "stepped" / "checkpoints").is_dir()
    assert (tmp_path / "used" / "notes.txt").exists()


@pytest.mark.parametrize("still", [0, 1])
def test_a_group_of_rate_0_stays_and_the_other_learns(still: int) -> None:
    net = small()
    parts = [net[1], net[3]]
    groups = [{"params": part.parameters(), "lr": 0.0 if place == still else 0.5} for place, part in enumerate(parts)]
    before = [part.weight.clone() for part in parts]
    result = train(net, torch.optim.SGD(groups, lr=0.5), epochs=2, schedule=StepDecay([1]))
    assert torch.equal(parts[still].weight, before[still])
    assert not torch.equal(parts[1 - still].weight, before[1 - still])
    assert [line["lr"] for line in result.metrics] == pytest.approx([0.5, 0.05])


def test_layers_without_a_size(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    with pytest.raises(ValueError, match=r"1.weight has no size.*first forward"):
        train(net, torch.optim.SGD(small().parameters(), lr=0.1), out=tmp_path)
    net(X)
    train(net)


class Counts(nn.Module):
    """Keeps something besides parameters and buffers, which torch puts into the state as it is."""

    def __init__(self, extra: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.extra = nn.Linear(64, 3), extra

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.extra, dict) and self.training:
            self.extra["steps"] += 1
        return self.linear(x.flatten(1))

    def get_extra_state(self) -> Any:
        return self.extra

    def set_extra_state(self, state: Any) -> None:
        self.extra = state


@pytest.mark.parametrize("extra", [{"steps": 0, "names": ("a", 2.5, None)}, torch.arange(3), b"\x00\xff", "text"])
def test_an_extra_state_is_kept(extra: Any, tmp_path: Path) -> None:
    train(Counts(extra), epochs=2, out=tmp_path, averaging=EMA())
    loaded = Counts(None if not isinstance(extra, Tensor) else torch.zeros(3, dtype=torch.int64))
    load_weights(tmp_path / "last.safetensors", loaded)
    expected = {**extra, "steps": 4} if isinstance(extra, dict) else extra
    assert torch.equal(loaded.extra, expected) if isinstance(extra, Tensor) else loaded.extra == expected
    again = Counts({"steps": 0} if isinstance(extra, dict) else extra)
    train(again, epochs=2, out=tmp_path, averaging=EMA())  # is complete, so it only restores
    assert torch.equal(again.extra, expected) if isinstance(extra, Tensor) else again.extra == expected


def test_an_extra_state_that_cannot_be_stored() -> None:
    with pytest.raises(ValueError, match=r"_extra_state.*object, which no checkpoint can hold"):
        load_weights_of(Counts(object()))


def load_weights_of(net: nn.Module) -> None:
    from protoat.training.weights import tensors_of

    tensors_of(net)


def _hold(folder: str, held: Any, done: Any) -> None:
    with working_on(Path(folder)):
        held.set()
        done.wait(60)


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(str(tmp_path), held, done))
    other.start()
    try:
        assert held.wait(60)
        with pytest.raises(ValueError, match="another process is at work"):
            train(out=tmp_path)
    finally:
        done.set()
        other.join(60)
    train(out=tmp_path)
    assert not (tmp_path / ".lock").exists()


def test_keys_of_metrics_keep_their_order(tmp_path: Path) -> None:
    train(epochs=2, out=tmp_path)
    path = tmp_path / "metrics.jsonl"
    before = [list(json.loads(line)) for line in path.read_text().splitlines()]
    path.unlink()
    train(epochs=2, out=tmp_path)
    assert [list(json.loads(line)) for line in path.read_text().splitlines()] == before
    assert before[0] != sorted(before[0])


UNREACHED: list[tuple[dict[str, Any], str]] = [
    ({"schedule": StepDecay([20, 25])}, "epochs 20, 25"),
    ({"schedule": StepDecay([2, 3])}, "epoch 3"),
    ({"method": PGDAT(THREAT, steps=1, ramp_epochs=30.0)}, "10% of eps"),
    ({"method": AWP(THREAT, start_epoch=3.0)}, "start_epoch=3"),
    ({"method": AWP(THREAT, method=partial(PGDAT, ramp_epochs=6.0))}, "50% of eps"),
    ({"method": CFA(THREAT, steps=1)}, "start_epoch=10"),
    ({"averaging": EMA(start_epoch=3)}, "start_epoch=3"),
    ({"averaging": SWA(start_epoch=4)}, "start_epoch=4"),
]


@pytest.mark.parametrize(("options", "words"), UNREACHED)
def test_what_never_happens_is_said(options: dict[str, Any], words: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        train(epochs=3, **options)
    assert "in a run of 3 epochs" in caplog.text
    assert words in caplog.text
    assert "write" in caplog.text


def test_what_a_regularizer_and_an_auxiliary_task_never_reach() -> None:
    assert "never merge" in SoftTriple(2, 4, merge_start=0.95, merge_stop=0.97).unreached(3)[0]
    assert not SoftTriple(2, 4).unreached(3)
    assert not SoftTriple(2, 4, merge_threshold=0.0).unreached(1)
    assert "warmup_epochs=5" in BiaMAT(THREAT, auxiliary=DATA).unreached(5)[0]
    assert not BiaMAT(THREAT, auxiliary=DATA).unreached(6)


def test_nothing_is_said_of_what_fits(caplog: pytest.LogCaptureFixture) -> None:
    fitting: list[dict[str, Any]] = [
        {"schedule": StepDecay([1, 2])},
        {"schedule": StepDecay([0.5, 0.75])},
        {"method": PGDAT(THREAT, steps=1, ramp_epochs=3.0)},
        {"method": AWP(THREAT, start_epoch=2.0)},
        {"averaging": SWA(start_epoch=3)},
    ]
    with caplog.at_level(logging.WARNING):
        for options in fitting:
            train(epochs=3, **options)
    assert not caplog.records


def test_milestones_as_shares_of_the_run() -> None:
    shares = train(epochs=8, schedule=StepDecay([0.5, 0.75])).metrics
    epochs = train(epochs=8, schedule=StepDecay([4, 6])).metrics
    assert [line["lr"] for line in shares] == [line["lr"] for line in epochs]
