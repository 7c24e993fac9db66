from __future__ import annotations

import copy
import json
import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from protoat.functional.merging import merge_prototypes
from protoat.functional.prototypes import prototype_spread, soft_triple
from protoat.regularizers import SoftTriple as Projected
from protoat.regularizers import soft_triple as module

SoftTriple = partial(Projected, projection=None, drop_below=None)  # `test_projection.py` tests what stands between


def batch(B: int = 12, C: int = 3, D: int = 8) -> tuple[Tensor, Tensor]:
    return torch.randn(B, D), torch.arange(B) % C


def near_pairs(tau: float = 0.2, **options: Any) -> Projected:
    """Three classes; in class 0 the first two of three prototypes almost coincide, in class 2 all do."""
    metric = SoftTriple(3, 8, prototypes_per_class=3, tau=tau, **options)
    with torch.no_grad():
        metric.prototypes[0, 1] = 3 * metric.prototypes[0, 0] + 0.01
        metric.prototypes[2, 1:] = metric.prototypes[2, 0] + 0.002 * torch.randn(2, 8)
    return metric


def step(metric: Projected, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    metric(*batch()).backward()
    optimizer.step()


def test_value_is_data_plus_tau_times_spread() -> None:
    metric = SoftTriple(3, 8, prototypes_per_class=[2, 4, 1], scale=7.0, gamma=0.3, margin=0.2, tau=0.6)
    z, y = batch()
    data = soft_triple(z, y, metric.prototypes, metric.active, scale=7.0, gamma=0.3, margin=0.2)
    torch.testing.assert_close(metric(z, y), data + 0.6 * prototype_spread(metric.prototypes, metric.active))
    assert metric.active.tolist() == [[True, True, False, False], [True] * 4, [True, False, False, False]]


def test_one_prototype_is_a_normalised_softmax_with_margin() -> None:
    metric = SoftTriple(3, 8, prototypes_per_class=1, tau=0.9)
    z, y = batch()
    cosine = torch.nn.functional.normalize(z) @ metric.prototypes[:, 0].T
    expected = torch.nn.functional.cross_entropy(20 * (cosine - 0.01 * torch.eye(3)[y]), y)
    torch.testing.assert_close(metric(z, y), expected)
    assert metric.end_epoch(5, 10)["prototype_counts"] == [1, 1, 1]


def test_it_learns_two_modes_of_a_class() -> None:
    centres = torch.eye(4)
    label = torch.tensor([0, 0, 1, 1])
    metric = SoftTriple(2, 4, prototypes_per_class=2, merge_threshold=None)
    optimizer = torch.optim.SGD(metric.parameters(), lr=0.1, momentum=0.9)
    for _ in range(200):
        mode = torch.randint(4, (64,))
        optimizer.zero_grad()
        metric(centres[mode] + 0.05 * torch.randn(64, 4), label[mode]).backward()
        optimizer.step()
    assert metric.predict(centres).tolist() == label.tolist()
    assert metric.similarity(centres).shape == (4, 2)


def test_prototypes_start_as_unit_vectors_in_all_directions() -> None:
    prototypes = SoftTriple(20, 64, prototypes_per_class=10).prototypes.detach()
    torch.testing.assert_close(prototypes.norm(dim=2), torch.ones(20, 10))
    assert prototypes.mean().abs() < 0.01


def test_mass_counts_own_assignments_in_training_mode_only() -> None:
    metric = near_pairs()
    z, y = batch()
    metric.eval()(z, y)
    assert metric.mass.sum() == 0
    metric.train()(z, y)
    metric(z[:4], y[:4])
    torch.testing.assert_close(metric.mass.sum(1), torch.tensor([6.0, 5.0, 5.0]))
    s = torch.nn.functional.normalize(z[:1]) @ torch.nn.functional.normalize(metric.prototypes[0].detach(), dim=1).T
    fresh = near_pairs()
    fresh.load_state_dict(metric.state_dict())
    fresh.mass.zero_()
    fresh(z[:1], y[:1])
    torch.testing.assert_close(fresh.mass[0], (s[0] / 0.3).softmax(0))


@pytest.mark.parametrize(
    ("options", "epochs", "due"),
    [
        ({}, 10, [3, 4, 5, 6, 7, 8, 9]),
        ({}, 120, list(range(30, 109))),
        ({"merge_every": 3}, 10, [3, 6, 9]),
        ({"merge_start": 0.0, "merge_stop": 1.0}, 3, [1, 2, 3]),
        ({"merge_start": 0.5, "merge_stop": 0.5}, 8, [4]),
        ({"merge_threshold": None}, 10, []),
        ({"merge_threshold": 0.0}, 10, []),
        ({}, 1, []),
    ],
)
def test_when_merges_happen(options: dict[str, Any], epochs: int, due: list[int]) -> None:
    happened = []
    for epoch in range(1, epochs + 1):
        metric = near_pairs(**options)
        if metric.end_epoch(epoch, epochs)["merged"]:
            happened.append(epoch)
    assert happened == due


def test_a_merge_is_that_of_the_observed_masses_and_starts_them_anew() -> None:
    metric = near_pairs()
    metric(*batch())
    expected = merge_prototypes(metric.prototypes, metric.active, metric.mass, 0.1)
    assert (expected.active.sum(1) == torch.tensor([2, 3, 1])).all()
    facts = metric.end_epoch(5, 10)
    torch.testing.assert_close(metric.prototypes.detach(), expected.prototypes)
    assert torch.equal(metric.active, expected.active)
    assert metric.mass.sum() == 0
    assert facts["prototypes"] == 6
    assert facts["prototype_counts"] == [2, 3, 1]
    assert sorted(facts["merged"]) == sorted(expected.pairs.tolist())
    assert len(facts["counts_at_0.05"]) == len(facts["counts_at_0.1"]) == len(facts["counts_at_0.2"]) == 3
    assert json.loads(json.dumps(facts)) == facts


def test_counts_are_logged_without_merging() -> None:
    metric = near_pairs(merge_threshold=None)
    facts = metric.end_epoch(5, 10)
    assert facts["prototype_counts"] == [3, 3, 3]
    assert facts["counts_at_0.1"] == [2, 3, 1]


def test_masses_are_averaged_over_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = near_pairs(), near_pairs()
    two.load_state_dict(one.state_dict())
    one(*batch())
    two(*batch())
    mean = (one.mass + two.mass) / 2
    monkeypatch.setattr(module, "mean_over_processes", lambda value: mean.clone())
    one.end_epoch(5, 10)
    two.end_epoch(5, 10)
    assert torch.equal(one.prototypes, two.prototypes)
    assert torch.equal(one.active, two.active)


OPTIMIZERS = [
    lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    lambda p: torch.optim.Adam(p, lr=0.01),
    lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    lambda p: torch.optim.SGD(p, lr=0.1),
    lambda p: torch.optim.RMSprop(p, lr=0.001, momentum=0.9),
    lambda p: torch.optim.Adagrad(p, lr=0.01),
]


@pytest.mark.parametrize(("share", "epochs"), [(0.07, 100), (0.14, 50), (0.29, 100), (0.58, 50)])
def test_a_share_of_the_epochs_that_is_whole_is_meant_exactly(share: float, epochs: int) -> None:
    whole = round(share * epochs)
    metric = SoftTriple(3, 4, merge_start=share, merge_stop=share, merge_threshold=1.9)
    assert metric.first_merge(epochs) == whole
    assert metric.end_epoch(whole, epochs)["merged"]


@pytest.mark.parametrize("make", OPTIMIZERS)
def test_merged_rows_lose_their_momentum_and_nothing_changes_shape(make: Any) -> None:
    metric = near_pairs(tau=5.0)
    optimizer = make(metric.parameters())
    for _ in range(3):
        step(metric, optimizer)
    parameter, shapes = metric.prototypes, {k: v.shape for k, v in metric.state_dict().items()}
    before = {k: v.clone() for k, v in optimizer.state[parameter].items() if isinstance(v, Tensor) and v.dim() == 3}
    merged = metric.end_epoch(5, 10, optimizer)["merged"]
    assert merged
    assert metric.prototypes is parameter
    assert {k: v.shape for k, v in metric.state_dict().items()} == shapes
    touched = torch.zeros(3, 3, dtype=torch.bool)
    for c, kept, gone in merged:
        touched[c, kept] = touched[c, gone] = True
    for name, old in before.items():
        new = optimizer.state[parameter][name]
        assert torch.equal(new[~touched], old[~touched])
        assert (new[~metric.active] == 0).all()
        if name in ("momentum_buffer", "exp_avg"):
            assert (new[touched] == 0).all()
            assert (old[touched] != 0).any()
    gone_rows = metric.prototypes.detach()[~metric.active].clone()
    for _ in range(3):
        step(metric, optimizer)
    if not isinstance(optimizer, torch.optim.AdamW):
        assert torch.equal(metric.prototypes.detach()[~metric.active], gone_rows)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad])
def test_no_optimizer_takes_a_leap_after_a_merge(kind: type[torch.optim.Optimizer]) -> None:
    metric = near_pairs()
    optimizer = kind(metric.parameters(), lr=0.001)  # type: ignore[call-arg]
    metric.prototypes.grad = torch.ones_like(metric.prototypes)
    for _ in range(1000):
        before = metric.prototypes.detach().clone()
        optimizer.step()
    longest = float((metric.prototypes.detach() - before).abs().max())
    merged = metric.end_epoch(5, 10, optimizer)["merged"]
    kept = {(c, row) for c, row, _ in merged if metric.active[c, row]}
    assert kept
    for _ in range(50):
        before = metric.prototypes.detach().clone()
        optimizer.step()
        moved = (metric.prototypes.detach() - before).abs()
        assert max(moved[row].max() for row in kept) < 1.01 * longest


def test_state_comes_back_after_merges() -> None:
    metric = near_pairs()
    metric(*batch())
    metric.end_epoch(5, 10)
    metric(*batch())
    other = SoftTriple(3, 8, prototypes_per_class=3)
    other.load_state_dict(copy.deepcopy(metric.state_dict()))
    z, y = batch()
    assert torch.equal(other(z, y), metric(z, y))
    assert torch.equal(other.mass, metric.mass)
    assert "mass" in metric.per_process


def test_half_precision_batches_leave_prototypes_in_single() -> None:
    metric = SoftTriple(3, 8)
    optimizer = torch.optim.SGD(metric.parameters(), lr=0.1, momentum=0.9)
    z, y = batch()
    z = z.bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        inside = metric(z, y)
    outside = metric(z, y)
    outside.backward()
    optimizer.step()
    metric.end_epoch(5, 10, optimizer)
    assert torch.equal(inside, outside)
    assert metric.prototypes.dtype == metric.mass.dtype == outside.dtype == torch.float32
    assert z.grad is not None
    assert z.grad.dtype == torch.bfloat16


def test_double_precision_stays_double() -> None:
    metric = SoftTriple(3, 8).double()
    z, y = batch()
    assert metric(z.double(), y).dtype == metric.prototypes.dtype == torch.float64


def test_gradient_reaches_embedding_and_active_prototypes() -> None:
    metric = SoftTriple(3, 8, prototypes_per_class=[1, 2, 3])
    z, y = batch()
    z.requires_grad_()
    metric(z, y).backward()
    assert z.grad is not None
    assert metric.prototypes.grad is not None
    assert (z.grad != 0).any(1).all()
    assert torch.equal((metric.prototypes.grad != 0).any(2), metric.active)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prototypes_per_class": [1, 2]}, "has 2 numbers, expected one for each of 3 classes"),
        ({"prototypes_per_class": [1, 0, 2]}, "prototypes_per_class=0 must be at least 1"),
        ({"prototypes_per_class": 0}, "prototypes_per_class=0 must be at least 1"),
        ({"scale": 0.0}, "scale=0 and gamma=0.3 must be positive"),
        ({"gamma": -1.0}, "gamma=-1 must be positive"),
        ({"tau": -0.1}, "tau=-0.1 must not be negative"),
        ({"margin": -0.1}, "margin=-0.1"),
        ({"merge_threshold": 2.0}, r"merge_threshold=2 is outside \[0, 2\)"),
        ({"merge_start": 0.95}, r"merge_start=0.95 and merge_stop=0.9 must rise"),
        ({"merge_every": 0}, "merge_every=0"),
        ({"merge_threshold": math.nan}, "merge_threshold=nan"),
        ({"drop_below": 1.0}, r"drop_below=1 is outside \[0, 1\)"),
        ({"prototype_init": "zeros"}, "prototype_init='zeros' is unknown; write 'random' or 'kmeans'"),
        ({"warmup_epochs": 0}, "warmup_epochs=0 must be at least 1"),
    ],
)
def test_mistakes_in_building_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SoftTriple(3, 8, **options)


def test_mistakes_in_use_are_told() -> None:
    metric = SoftTriple(3, 8)
    z, y = batch()
    with pytest.raises(ValueError, match=r"embeddings have shape \(12, 5\), expected \(B, 8\)"):
        metric(z[:, :5], y)
    with pytest.raises(ValueError, match=r"labels lie in 1\.\.3, expected 0\.\.2"):
        metric(z, y + 1)
    with pytest.raises(ValueError, match="B > 0"):
        metric(z[:0], y[:0])
    with pytest.raises(ValueError, match="num_classes=0"):
        SoftTriple(0, 8)
