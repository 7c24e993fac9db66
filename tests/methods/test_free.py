"""Free adversarial training against the algorithm of Shafahi et al., written as loops in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from protoat.methods import FreeAT
from protoat.objective import Objective
from protoat.threats import L2, Linf, ThreatModel
from protoat.types import Output

from . import linear
from .linear import Matrix

LR = 0.4


def reference(
    w: Matrix, batches: list[tuple[Matrix, list[int]]], eps: float, replays: int
) -> tuple[Matrix, list[Matrix]]:
    """Weights at the end, and the perturbation after each replay; one row for each slot of the largest batch."""
    slots = max(len(x) for x, _ in batches)
    delta = [[0.0] * len(batches[0][0][0]) for _ in range(slots)]
    path = []
    for x, y in batches:
        for _ in range(replays):
            shown, gradients = [], []
            for i, image in enumerate(x):
                moved = [pixel + delta[i][d] for d, pixel in enumerate(image)]
                shown.append([linear.clip(value, 0, 1) for value in moved])
                gradient = linear.pixel_gradient(w, shown[i], y[i])
                # The cut to [0, 1] lies inside the graph, so nothing passes where it is active.
                gradients.append([g if 0 <= v <= 1 else 0.0 for g, v in zip(gradient, moved, strict=True)])
            step = linear.weight_gradient(w, shown, y)
            for i, gradient in enumerate(gradients):
                for d, g in enumerate(gradient):
                    delta[i][d] = linear.clip(delta[i][d] + eps * linear.sign(g), -eps, eps)
            w = linear.sgd(w, step, LR)
            path.append([row[:] for row in delta])
    return w, path


def package(
    w: Matrix, batches: list[tuple[Matrix, list[int]]], eps: float, replays: int
) -> tuple[Matrix, list[Matrix], FreeAT]:
    net, method = linear.network(w), FreeAT(Linf(eps), replays=replays)
    objective = Objective(method)
    optimizer = torch.optim.SGD(net.parameters(), lr=LR)
    path = []
    for x, y in batches:
        for replay, terms in enumerate(objective.losses(net, linear.as_images(x), torch.tensor(y))):
            if replay:
                path.append(linear.as_rows(method.perturbation))
            optimizer.zero_grad()
            terms.total.backward()
            optimizer.step()
        path.append(linear.as_rows(method.perturbation))
    return linear.as_rows(net[1].weight.detach()), path, method


def assert_same_path(found: list[Matrix], wanted: list[Matrix]) -> None:
    """Slots appear as larger batches come; until then the reference's are zero."""
    assert len(found) == len(wanted)
    for mine, theirs in zip(found, wanted, strict=True):
        assert all(row == [0.0] * 4 for row in theirs[len(mine) :])
        torch.testing.assert_close(
            torch.tensor(mine, dtype=torch.float64), torch.tensor(theirs[: len(mine)], dtype=torch.float64)
        )


W = [[1.0, -2.0, 0.5, 0.3], [-0.5, 1.5, 1.0, -1.0], [0.2, 0.4, -1.5, 2.0]]
FULL = ([[0.1, 0.9, 0.5, 0.02], [0.7, 0.3, 0.99, 0.4], [0.05, 1.0, 0.2, 0.6]], [0, 2, 1])
SMALL = ([[0.33, 0.44, 0.55, 0.66]], [1])
LARGE = ([[0.2, 0.8, 0.5, 0.5], [0.6, 0.6, 0.1, 0.9], [0.3, 0.2, 0.7, 0.8], [0.95, 0.5, 0.4, 0.1]], [2, 0, 1, 2])


@pytest.mark.parametrize("replays", [1, 2, 5])
@pytest.mark.parametrize("eps", [0.05, 0.3])
@pytest.mark.parametrize("batches", [[FULL], [FULL, FULL], [FULL, SMALL, FULL], [FULL, LARGE, SMALL, LARGE]])
def test_perturbation_and_weights(batches: list[tuple[Matrix, list[int]]], eps: float, replays: int) -> None:
    w, path = reference(W, batches, eps, replays)
    found_w, found_path, method = package(W, batches, eps, replays)
    torch.testing.assert_close(torch.tensor(found_w), torch.tensor(w), rtol=1e-4, atol=1e-5)
    assert_same_path(found_path, path)
    assert method.updates_per_batch == replays
    assert len(found_path) == replays * len(batches)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 4), st.floats(0.02, 0.5))
def test_any_start(seed: int, replays: int, eps: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    w = linear.as_rows(torch.randn(2, 4, generator=generator, dtype=torch.float64))
    batches = []
    for size in (3, 2):
        x = torch.rand(size, 4, generator=generator, dtype=torch.float64)
        batches.append((linear.as_rows(x), torch.randint(2, (size,), generator=generator).tolist()))
    expected_w, path = reference(w, batches, eps, replays)
    found_w, found_path, _ = package(w, batches, eps, replays)
    torch.testing.assert_close(torch.tensor(found_w), torch.tensor(expected_w), rtol=1e-3, atol=1e-4)
    assert_same_path(found_path, path)


class Noting(nn.Module):
    """Notes the images it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.shown: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> Output:
        self.shown.append(x.detach().clone())
        embedding = x.flatten(1)
        return Output(self.head(embedding), embedding)


def run(method: FreeAT, model: Noting, x: torch.Tensor, y: torch.Tensor, **weights: float) -> None:
    for terms in Objective(method, **weights).losses(model, x, y):
        terms.total.backward()


@pytest.mark.parametrize("threat", [Linf(0.2), L2(0.5)])
def test_no_pass_leaves_the_budget_or_the_range(threat: object) -> None:
    model, method = Noting(), FreeAT(threat, replays=3)
    for seed in range(3):
        x = torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(seed)).round(decimals=1)
        model.shown.clear()
        run(method, model, x, torch.arange(5) % 2)
        assert len(model.shown) == 3
        for shown in model.shown:
            assert shown.min() >= 0 and shown.max() <= 1
            delta = (shown - x).flatten(1)
            length = delta.abs().amax(1) if threat.norm == "linf" else delta.norm(dim=1)
            assert (length <= threat.eps + 1e-6).all()


def test_l2_steps_along_the_unit_gradient() -> None:
    model, method = Noting(), FreeAT(L2(0.25), replays=1)
    x, y = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])
    run(method, model, x, y)
    shift = (model.head.weight[1] - model.head.weight[0]).detach()
    torch.testing.assert_close(method.perturbation.flatten(), 0.25 * shift / shift.norm())


def test_black_and_white_pixels_move() -> None:
    """On images without greys, as most of MNIST, nothing is cut off before the first step, so every pixel takes it."""
    model, method = Noting(), FreeAT(Linf(0.1), replays=1)
    run(method, model, torch.rand(6, 1, 2, 2).round(), torch.arange(6) % 2)
    assert torch.equal(method.perturbation.abs(), torch.full((6, 1, 2, 2), 0.1))


def test_it_follows_the_total_loss() -> None:
    """With a term on the embedding so heavy that it decides, the perturbation goes where that term rises."""
    model, method = Noting(), FreeAT(Linf(0.1), replays=1)
    run(method, model, torch.full((2, 1, 2, 2), 0.5), torch.tensor([0, 1]), norm_weight=1e6)
    assert torch.equal(method.perturbation, torch.full((2, 1, 2, 2), 0.1))


def test_the_perturbation_lives_on_and_is_state() -> None:
    model, method = Noting(), FreeAT(Linf(0.1), replays=2)
    assert method.state_dict() == {}
    x, y = torch.rand(4, 1, 2, 2), torch.arange(4) % 2
    run(method, model, x, y)
    before = method.perturbation.clone()
    method.end_epoch(model)
    assert torch.equal(method.perturbation, before) and before.abs().max() > 0
    state = {key: value.clone() for key, value in method.state_dict().items()}
    resumed = FreeAT(Linf(0.1), replays=2)
    resumed.load_state_dict(state)
    model.shown.clear()
    run(resumed, model, x, y)
    assert torch.equal(model.shown[0], (x + before).clamp(0, 1))


def test_a_caller_that_forgets_backward_is_told() -> None:
    updates = Objective(FreeAT(Linf(0.1), replays=2)).losses(Noting(), torch.rand(2, 1, 2, 2), torch.tensor([0, 1]))
    next(updates)
    with pytest.raises(RuntimeError, match=r"call terms.total.backward\(\) before the next update"):
        next(updates)


def test_images_of_another_shape_and_no_replays_are_refused() -> None:
    model, method = Noting(), FreeAT(Linf(0.1), replays=1)
    run(method, model, torch.rand(2, 1, 2, 2), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"perturbation for images \(1, 2, 2\), got \(1, 4, 1\)"):
        run(method, model, torch.rand(2, 1, 4, 1), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="replays=0 must be at least 1"):
        FreeAT(Linf(0.1), replays=0)


def test_a_ramp_bounds_the_perturbation() -> None:
    model, method = Noting(), FreeAT(Linf(0.2), replays=2, ramp_epochs=2)
    x, y = torch.full((2, 1, 2, 2), 0.5), torch.tensor([0, 1])
    for epoch, radius in ((0.0, 0.0), (1.0, 0.1), (3.0, 0.2)):
        method.at_epoch(epoch)
        run(method, model, x, y)
        assert float(method.perturbation.abs().max()) == pytest.approx(radius)


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.5)])
def test_an_overflow_does_not_live_on_in_the_perturbation(threat: ThreatModel) -> None:
    """In half precision an overflowed step is skipped by the gradient scaler; the perturbation must survive it too."""
    method, net = FreeAT(threat, replays=3), nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    x, y = torch.rand(2, 1, 2, 2), torch.tensor([0, 1])
    for replay, views in enumerate(method.updates(net, x, y)):
        scale = float("inf") if replay == 1 else 1.0
        (scale * method.loss(views, y)).backward()
    assert method.perturbation is not None
    assert bool(method.perturbation.isfinite().all())
    assert float(method.perturbation.abs().sum()) > 0
