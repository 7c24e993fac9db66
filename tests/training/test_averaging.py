"""Averages of weights: against means taken by hand, and through interruption."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from protoat.attacks import PGD
from protoat.methods import AWP, PGDAT, TRADES, Method, Standard
from protoat.models import MultiPrototypeHead
from protoat.objective import Objective
from protoat.threats import Linf
from protoat.training import EMA, FAWA, SWA, fit, load_weights, parameter_groups
from protoat.training.validation import Validation

THREAT = Linf(0.15)


def run(small: ModuleType, method: Method, out: Path | None = None, **options: Any) -> tuple[nn.Module, list[dict]]:
    """Trains on five batches for three epochs; returns the model and its state after each epoch, before averaging."""
    torch.manual_seed(7)
    net, objective = small.Net(dropout=0.0), Objective(method)
    optimizer = torch.optim.SGD(parameter_groups(net, objective, lr=0.1), momentum=0.9)
    steps: list[dict[str, Tensor]] = []
    optimizer.register_step_post_hook(lambda *_: steps.append(copy.deepcopy(net.state_dict())))
    settings = {"epochs": 3, "progress": False, "loggers": [], "seed": 11, "out": out}
    fit(net, small.loader(), objective, optimizer=optimizer, **settings | options)
    return net, steps[4::5]


def same_weights(model: nn.Module, state: dict[str, Tensor]) -> None:
    for name, value in model.named_parameters():
        torch.testing.assert_close(value.detach(), state[name], rtol=1e-5, atol=1e-6, msg=name)


def mean(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {key: torch.stack([state[key].double() for state in states]).mean(0).float() for key in states[0]}


def test_a_number_is_the_decay_of_a_moving_average(small: ModuleType) -> None:
    by_number, _ = run(small, Standard(THREAT), averaging=0.8)
    by_rule, _ = run(small, Standard(THREAT), averaging=EMA(decay=0.8))
    same_weights(by_number, by_rule.state_dict())
    plain, _ = run(small, Standard(THREAT))
    assert not torch.allclose(plain.head.weight, by_rule.head.weight, rtol=1e-3)


def test_a_moving_average_may_begin_late(small: ModuleType) -> None:
    late, states = run(small, Standard(THREAT), averaging=EMA(decay=1 - 1e-9, start_epoch=14 / 5))
    same_weights(late, states[-1])
    never, states = run(small, Standard(THREAT), averaging=EMA(decay=0.5, start_epoch=3))
    assert torch.equal(never.head.weight, states[-1]["head.weight"])


@pytest.mark.parametrize("start", [1, 2, 3])
def test_swa_is_the_mean_of_epochs(start: int, small: ModuleType, tmp_path: Path) -> None:
    net, states = run(small, PGDAT(THREAT, steps=2), tmp_path, averaging=SWA(start_epoch=start))
    same_weights(net, mean(states[start - 1 :]))
    exported = small.Net()
    load_weights(tmp_path / "last.safetensors", exported)
    assert torch.equal(exported.head.weight, net.head.weight)


def test_swa_before_its_start_is_the_model(small: ModuleType) -> None:
    net, states = run(small, PGDAT(THREAT, steps=2), averaging=SWA(start_epoch=4))
    for key, value in net.state_dict().items():
        assert torch.equal(value, states[-1][key]), key


def test_swa_estimates_batch_norm_anew_over_the_training_images(small: ModuleType) -> None:
    net, _ = run(small, Standard(THREAT), averaging=SWA(start_epoch=1))
    layer, seen = net.features[1], []
    loader = small.loader()
    loader.set_epoch(2)
    with torch.no_grad():
        for x, _ in loader:
            maps = net.features[0](x).transpose(0, 1).flatten(1)
            seen.append((maps.mean(1), maps.var(1)))
    torch.testing.assert_close(layer.running_mean, torch.stack([m for m, _ in seen]).mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(layer.running_var, torch.stack([v for _, v in seen]).mean(0), rtol=1e-4, atol=1e-6)
    assert layer.momentum == 0.1


def test_swa_takes_as_many_batches_as_it_is_told_and_the_forwards_of_the_method(small: ModuleType) -> None:
    net, _ = run(small, TRADES(THREAT, steps=1), averaging=SWA(start_epoch=1, bn_batches=3))
    assert net.features[1].num_batches_tracked.item() == 3 * 2


def test_without_batch_norm_there_is_nothing_to_estimate(small: ModuleType) -> None:
    class Counted(PGDAT):
        calls = 0

        def examples(self, *args: Any) -> Any:
            Counted.calls += 1
            return super().examples(*args)

    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    batches = small.loader(80)
    options: dict[str, Any] = {"averaging": SWA(start_epoch=1), "progress": False}
    fit(net, batches, Objective(Counted(THREAT, steps=1)), epochs=2, optimizer=optimizer, **options)
    assert Counted.calls == 2 * len(batches)


def test_estimating_batch_norm_leaves_the_state_of_the_method(small: ModuleType) -> None:
    results = []
    for averaging in (None, SWA(start_epoch=1)):
        built = small.built("free")
        objective = built[1]
        fit(built[0], small.loader(), objective, epochs=2, optimizer=built[2], averaging=averaging, progress=False)
        results.append(objective.method.perturbation)
    assert torch.equal(*results)


def test_fair_averaging_skips_epochs_that_fall_short(small: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = iter([0.3, 0.1, 0.2])
    monkeypatch.setattr(Validation, "worst_class", lambda *_: next(scripted))
    validation = small.digits(200, 260)
    rule = FAWA(threshold=0.2, decay=0.75)
    net, states = run(small, PGDAT(THREAT, steps=1), averaging=rule, validation=validation)
    expected = {key: 0.75 * value + 0.25 * states[2][key] for key, value in states[0].items()}
    same_weights(net, expected)
    # As in the authors' code the running statistics are averaged like weights.
    torch.testing.assert_close(net.features[1].running_mean, expected["features.1.running_mean"])


def test_fair_averaging_needs_held_out_images(small: ModuleType) -> None:
    with pytest.raises(ValueError, match="FAWA decides by held-out images; pass validation"):
        run(small, PGDAT(THREAT), averaging=FAWA())


def test_the_worst_class_is_found_by_counting(small: ModuleType) -> None:
    torch.manual_seed(0)
    net, objective, optimizer = small.built("pgd")
    fit(net, small.loader(), objective, epochs=4, optimizer=optimizer, progress=False)
    data = small.digits(200, 320)
    keep = data.labels != 4  # a class without images does not count
    data = data.subset(keep.nonzero().flatten())
    attack = PGD(THREAT, steps=3, random_start=False)
    shares = []
    for label in range(10):
        chosen = data.labels == label
        if chosen.any():
            images = data.images[chosen].float() / 255
            shares.append(attack(net, images, data.labels[chosen]).correct.float().mean().item())
    worst = Validation(data, attack, device=torch.device("cpu")).worst_class(net)
    assert worst == pytest.approx(min(shares), abs=1e-6)
    assert len(set(shares)) > 1
    parts = [Validation(data, attack, device=torch.device("cpu"), rank=r, world_size=2)._counts(net) for r in (0, 1)]
    both = Validation(data, attack, device=torch.device("cpu"))._counts(net)
    assert torch.equal(parts[0] + parts[1], both)


def test_weights_that_a_method_has_moved_are_averaged_only_once_they_are_back(small: ModuleType) -> None:
    """With a share of almost one the average is the model; moved by AWP it would be far from it."""
    method = partial(AWP, method=partial(PGDAT, steps=1), gamma=0.5)
    plain, _ = run(small, method(THREAT))
    averaged, _ = run(small, method(THREAT), averaging=EMA(decay=1e-9))
    same_weights(averaged, plain.state_dict())


class Killed(BaseException):
    """Ends a run where nothing can catch it."""


@pytest.mark.parametrize(
    "averaging",
    [EMA(decay=0.8, start_epoch=0.5), SWA(start_epoch=1, bn_batches=2), FAWA(threshold=0.0)],
    ids=lambda rule: type(rule).__name__,
)
def test_an_interrupted_run_averages_as_a_whole_one(
    averaging: Any, small: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"epochs": 3, "averaging": averaging}
    small.train("pgd", tmp_path / "whole", **options)
    for steps in (7, 14):
        built, taken, broken = small.built("pgd"), [], tmp_path / f"broken-at-{steps}"

        def count(*_: object, taken: list[int] = taken, steps: int = steps) -> None:
            taken.append(1)
            if len(taken) == steps:
                raise Killed

        built[2].register_step_pre_hook(count)
        with monkeypatch.context() as patched, pytest.raises(Killed):
            patched.setattr(small, "built", lambda _, built=built: built)
            small.train("pgd", broken, **options)
        small.train("pgd", broken, **options)
        small.assert_same_outcome(broken, tmp_path / "whole")


def test_another_rule_is_another_run(small: ModuleType, tmp_path: Path) -> None:
    small.train("standard", tmp_path, epochs=1, averaging=EMA(decay=0.8))
    with pytest.raises(ValueError, match="averaging EMA"):
        small.train("standard", tmp_path, epochs=1, averaging=EMA(decay=0.9))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (partial(EMA, decay=1.0), "decay=1 is outside"),
        (partial(EMA, start_epoch=-1.0), "start_epoch=-1 must not be negative"),
        (partial(SWA, start_epoch=0), "start_epoch=0 and bn_batches=100 must be at least 1"),
        (partial(SWA, start_epoch=1, bn_batches=0), "must be at least 1"),
        (partial(FAWA, threshold=20.0), "threshold=20 is outside"),
        (partial(FAWA, decay=0.0), "decay=0 is outside"),
    ],
)
def test_mistakes_are_refused(rule: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rule()


def test_prototypes_of_the_head_merge_in_the_average_without_a_change_of_its_scores() -> None:
    """At a learning rate of almost nothing the average is the model, before and after equal prototypes have merged."""
    torch.manual_seed(3)
    head = MultiPrototypeHead(4, 2, prototypes_per_class=3, merge_threshold=0.01, merge_start=0.5, merge_stop=1)
    with torch.no_grad():
        head.prototypes[1, 1:] = head.prototypes[1, :1]
    net = nn.Sequential(nn.Flatten(), head)
    objective, x = Objective(Standard(THREAT)), torch.rand(6, 1, 2, 2)
    before = net(x).detach()
    batches = [(x, torch.arange(6) % 2)] * 3
    optimizer = torch.optim.SGD(parameter_groups(net, objective, lr=1e-9))
    quiet = {"progress": False, "loggers": []}
    found = fit(net, batches, objective, epochs=3, optimizer=optimizer, averaging=EMA(decay=0.999), **quiet)
    assert found.metrics[1]["objective"]["head_merged"] == [[1, 0, 1], [1, 0, 2]]
    assert head.active.tolist() == [[True] * 3, [True, False, False]]
    torch.testing.assert_close(net(x).detach(), before)
