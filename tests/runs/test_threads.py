"""Commands compute on as many threads as are fast, and go on with the number they began with."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from protoat.recipes.reading import read_recipe
from protoat.runs import cores as cores_module
from protoat.runs import threads
from protoat.runs.cores import _quota, choosing_threads, cores, share_of_cores
from protoat.runs.measure import measure
from protoat.runs.run import Run
from protoat.runs.threads import fewest_fast, on_fitting_threads
from protoat.runs.train import train
from protoat.training import make_accelerator
from protoat.training.saver import saved_threads

SHORT = ["--epochs", "1", "--validation_size", "50", "--method", "Standard", "--schedule", "none", "--batch_size", "64"]
Faked = Callable[[dict[int, float]], None]


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> Faked:
    """Seconds of a pass by number of threads, on as many cores."""

    def fake(seconds: dict[int, float]) -> None:
        monkeypatch.setattr(threads, "_least_time", lambda work: (work(), seconds[torch.get_num_threads()])[1])
        for module in (threads, cores_module):
            monkeypatch.setattr(module, "cores", lambda: max(seconds))

    return fake


@pytest.mark.parametrize(
    ("seconds", "fewest"),
    [
        ({1: 1.0}, 1),
        ({1: 1.0, 2: 2.0}, 1),
        ({1: 1.0, 2: 0.6}, 2),
        ({1: 1.0, 2: 0.95}, 1),
        ({1: 9.0, 2: 5.0, 4: 3.0, 8: 2.0}, 8),
        ({1: 9.0, 2: 5.0, 4: 2.1, 8: 2.0}, 4),
        ({1: 9.0, 2: 9.0, 3: 1.0}, 3),
    ],
)
def test_the_fewest_threads_that_are_about_the_fastest(seconds: dict[int, float], fewest: int) -> None:
    assert fewest_fast(seconds.__getitem__, max(seconds)) == (fewest, seconds)


def test_the_number_is_timed_said_and_given_back(faked: Faked, caplog: pytest.LogCaptureFixture) -> None:
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2))
    state, images = {key: value.clone() for key, value in net.state_dict().items()}, torch.rand(3, 1, 2, 2)
    random = torch.get_rng_state()
    faked({1: 0.04, 2: 0.02})
    caplog.set_level(logging.INFO, logger="protoat")
    with choosing_threads(), on_fitting_threads(net, images, make_accelerator()) as chosen:
        assert chosen == torch.get_num_threads() == 2
    assert torch.get_num_threads() == 1
    assert caplog.messages == ["threads: 2; forward and backward of 3 images take 40 ms on 1, 20 ms on 2"]
    assert net.training and all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_a_program_keeps_its_own_number(faked: Faked) -> None:
    faked({1: 0.04, 2: 0.02})
    with on_fitting_threads(nn.Flatten(), torch.rand(3, 1, 2, 2), make_accelerator()) as chosen:
        assert chosen is None and torch.get_num_threads() == 1
        torch.set_num_threads(2)
    assert torch.get_num_threads() == 2  # as the program has set it meanwhile


def test_networks_without_a_gradient_are_timed_forward(faked: Faked) -> None:
    faked({1: 0.04, 2: 0.02})
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).requires_grad_(False)
    net.register_forward_pre_hook(lambda _, inputs: (inputs[0].detach(),))
    with choosing_threads(), on_fitting_threads(net, torch.rand(3, 1, 2, 2), make_accelerator()) as chosen:
        assert chosen == 2


@pytest.mark.parametrize(("kept", "chosen"), [(None, 2), (1, 1), (2, 2), (3, 2)])
def test_what_goes_on_keeps_its_number_where_there_are_so_many_cores(
    kept: int | None, chosen: int, faked: Faked
) -> None:
    faked({1: 0.04, 2: 0.02})
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with choosing_threads(), on_fitting_threads(net, torch.rand(1, 1, 2, 2), make_accelerator(), kept=kept) as found:
        assert found == chosen


def test_jobs_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores_module, "cores", lambda: 6)
    assert share_of_cores() is None
    for jobs, share in ((1, 6), (2, 3), (4, 1), (9, 1), (None, None)):
        with choosing_threads(jobs):
            assert share_of_cores() == share


def test_control_groups_limit_the_cores(tmp_path: Path) -> None:
    groups, root = tmp_path / "cgroup", tmp_path / "mounted"

    def put(name: str, text: str) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)

    assert _quota(groups, root) == math.inf
    groups.write_text("0::/user/job\n")
    assert _quota(groups, root) == math.inf
    put("user/job/cpu.max", "max 100000\n")
    assert _quota(groups, root) == math.inf
    put("user/cpu.max", "250000 100000\n")
    assert _quota(groups, root) == 2.5
    groups.write_text("3:memory:/x\n2:cpu,cpuacct:/job\n")
    assert _quota(groups, root) == math.inf
    put("cpu/job/cpu.cfs_quota_us", "-1\n")
    put("cpu/job/cpu.cfs_period_us", "100000\n")
    assert _quota(groups, root) == math.inf
    put("cpu/cpu.cfs_quota_us", "150000\n")
    put("cpu/cpu.cfs_period_us", "100000\n")
    assert _quota(groups, root) == 1.5


def test_cores_are_those_the_process_is_bound_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    for quota, found in ((math.inf, 3), (1.5, 2), (0.1, 1), (8.0, 3)):
        monkeypatch.setattr(cores_module, "_quota", lambda *_, quota=quota: quota)
        assert cores() == found


def test_a_run_keeps_its_number_and_says_it_in_its_record(tmp_path: Path, faked: Faked) -> None:
    recipe, out = read_recipe("digits-2", SHORT), tmp_path / "run"
    faked({1: 0.02, 2: 0.04})
    with choosing_threads():
        train(recipe, out, progress=False)
        assert saved_threads(out / "checkpoints") == 1
        faked({1: 0.04, 2: 0.02})
        train(recipe, out, progress=False)
        train(recipe, tmp_path / "other", progress=False)
    assert [session["threads"] for session in Run(out).facts["sessions"]] == [1, 1]
    assert [session["threads"] for session in Run(tmp_path / "other").facts["sessions"]] == [2]
    assert (out / "recipe.yaml").read_text() == (tmp_path / "other" / "recipe.yaml").read_text()


def test_a_measurement_keeps_its_number_and_says_it_in_its_record(tmp_path: Path, faked: Faked) -> None:
    train(read_recipe("digits-2", SHORT), tmp_path / "run", progress=False)
    subject = replace(Run(tmp_path / "run").subject(), folder=tmp_path / "record")

    def told() -> int:
        return json.loads((subject.folder / "evaluation.json").read_text())["attacks"]["fgsm"]["threads"]

    faked({1: 0.04, 2: 0.02})
    with choosing_threads():
        measure(subject, ["fgsm"], limit=40, batch_size=20, budget_seconds=1e-9)
        assert told() == 2 and (subject.folder / "evaluation.partial").exists()
        faked({1: 0.02, 2: 0.04})
        measure(subject, ["fgsm"], limit=40, batch_size=20)
        assert told() == 2 and not (subject.folder / "evaluation.partial").exists()
        measure(subject, ["fgsm"], limit=30, batch_size=20)
    assert told() == 1
