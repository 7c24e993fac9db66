"""One-step methods against their algorithms, written as loops over images and pixels in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from protoat import Objective, fit
from protoat.data import Augment, ImageData, ImageLoader, Origin
from protoat.errors import Interrupted
from protoat.functional.batch import noise_like
from protoat.functional.norms import norm_of
from protoat.methods import ATTA, AWP, FGSMPGI, NFGSM, FastAT, Method, NuAT
from protoat.methods.nuat import nuclear_norm
from protoat.threats import L2, Linf
from protoat.training import parameter_groups
from protoat.types import Output

from . import linear
from .linear import Matrix

EPS = 0.1
W = [[1.0, -2.0, 0.5, 0.3], [-0.5, 1.5, 1.0, -1.0], [0.2, 0.4, -1.5, 2.0]]
X = [[0.1, 0.9, 0.5, 0.02], [0.7, 0.3, 0.99, 0.4], [0.05, 1.0, 0.2, 0.6]]
Y = [0, 2, 1]


def same(found: Any, wanted: Matrix, tolerance: float = 1e-9) -> None:
    rows = torch.tensor(linear.as_rows(found.detach()), dtype=torch.float64)
    torch.testing.assert_close(rows, torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=tolerance)


def half(rows: Matrix) -> Matrix:
    """What half precision keeps of numbers."""
    return torch.tensor(rows, dtype=torch.float64).half().double().tolist()


def brain(rows: Matrix) -> Matrix:
    return torch.tensor(rows, dtype=torch.float64).bfloat16().double().tolist()


def step_on(method: Method, net: nn.Module, x: Matrix, y: list[int], index: list[int] | None = None) -> Any:
    """The views of one batch, with the random state that `generator_of` knows."""
    torch.manual_seed(0)
    method.at_images(Origin(torch.tensor(index or list(range(len(x))))))
    (views,) = method.updates(net, linear.as_images(x), torch.tensor(y))
    return views


def generator_of(x: Matrix) -> torch.Generator:
    torch.manual_seed(0)
    return Method.generator(linear.as_images(x))


def added(a: Matrix, b: Matrix) -> Matrix:
    return [[p + q for p, q in zip(one, other, strict=True)] for one, other in zip(a, b, strict=True)]


def signs(rows: Matrix, length: float) -> Matrix:
    return [[length * linear.sign(value) for value in row] for row in rows]


def legal(rows: Matrix, x: Matrix, eps: float) -> Matrix:
    return [linear.into_ball(row, image, eps) for row, image in zip(rows, x, strict=True)]


def gradients(w: Matrix, x: Matrix, y: list[int]) -> Matrix:
    return [linear.pixel_gradient(w, image, label) for image, label in zip(x, y, strict=True)]


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize(("noise", "step"), [(2.0, EPS), (0.5, 0.05), (0.0, EPS), (1.0, 2 * EPS)])
def test_n_fgsm(noise: float, step: float, clip: bool) -> None:
    method, net = NFGSM(Linf(EPS), noise=noise, step_size=step, clip_noise=clip), linear.network(W)
    found = step_on(method, net, X, Y)
    around = norm_of("linf").point_of_ball(linear.as_images(X), noise * EPS, generator_of(X))
    start = linear.as_rows(around.clamp(0, 1) if clip else around)
    wanted = added(start, signs(gradients(W, start, Y), step))
    same(found.x_adv, [[linear.clip(value, 0, 1) for value in row] for row in wanted], 1e-7)
    loss = method.loss(found, torch.tensor(Y))
    torch.testing.assert_close(loss, nn.functional.cross_entropy(net(found.x_adv), torch.tensor(Y)))


def test_n_fgsm_leaves_the_ball_and_keeps_to_its_reach() -> None:
    x = torch.full((64, 1, 2, 2), 0.5, dtype=torch.float64)
    (views,) = NFGSM(Linf(EPS)).updates(linear.network(W), x, torch.arange(64) % 3)
    moved = (views.x_adv - x).abs()
    assert float(moved.mean()) > 1.1 * EPS and 2.9 * EPS < float(moved.max()) <= 3 * EPS + 1e-6
    (views,) = NFGSM(L2(EPS)).updates(linear.network(W), x, torch.arange(64) % 3)
    assert EPS < float((views.x_adv - x).flatten(1).norm(dim=1).max()) <= 3 * EPS + 1e-6


class Prior:
    """Jia et al.'s prior of each image, in plain Python."""

    def __init__(self, kind: str, decay: float) -> None:
        self.kind, self.decay = kind, decay
        self.delta: dict[int, list[float]] = {}
        self.momentum: dict[int, list[float]] = {}

    def step(self, w: Matrix, x: Matrix, y: list[int], index: list[int], drawn: Matrix) -> tuple[Matrix, Matrix]:
        """Where the step begins, and where it ends."""
        start = added(x, [self.delta.get(i, row) for i, row in zip(index, drawn, strict=True)])
        found = gradients(w, start, y)
        end = legal(added(start, signs(found, EPS)), x, EPS)
        for i, g, here, image, there in zip(index, found, start, x, end, strict=True):
            following = there
            if self.kind == "momentum":
                size, before = sum(abs(value) for value in g) / len(g), self.momentum.get(i, [0.0] * len(g))
                momentum = [value / size + self.decay * m for value, m in zip(g, before, strict=True)]
                following = legal(added([here], signs([momentum], EPS)), [image], EPS)[0]
                (self.momentum[i],) = brain([momentum])
            (self.delta[i],) = half([[a - b for a, b in zip(following, image, strict=True)]])
        return start, end


@pytest.mark.parametrize("prior", ["momentum", "epoch"])
def test_fgsm_pgi_over_epochs(prior: str) -> None:
    """Weights move between epochs, so that gradients turn; images come in another order each time."""
    method, reference = FGSMPGI(Linf(EPS), prior=prior, decay=0.8), Prior(prior, 0.8)
    for epoch, (order, w) in enumerate(zip([[0, 1, 2], [2, 0, 1], [1, 2, 0]], [W, W[::-1], W], strict=True)):
        x, y, net = [X[i] for i in order], [Y[i] for i in order], linear.network(w)
        drawn = linear.as_rows(EPS * noise_like(linear.as_images(x), "uniform", generator_of(x)).sign())
        views = step_on(method, net, x, y, order)
        start, end = reference.step(w, x, y, order, drawn)
        ((before, _),) = views.more
        same(before.x_adv, start, 1e-4)  # a kept perturbation that half precision rounds out of the ball is cut back
        same(views.x_adv, end, 1e-4)
        if not epoch:
            assert all(abs(a) == pytest.approx(EPS) for row in drawn for a in row)
        loss = method.loss(views, torch.tensor(y))
        apart = (net(views.x_adv) - net(before.x_adv)).square().mean()
        expected = nn.functional.cross_entropy(net(views.x_adv), torch.tensor(y)) + 10 * apart
        torch.testing.assert_close(loss, expected)


def test_fgsm_pgi_of_the_batch_before_needs_no_numbers() -> None:
    method, net = FGSMPGI(Linf(EPS), prior="batch"), linear.network(W)
    assert not method.per_image
    (first,) = method.updates(net, linear.as_images(X), torch.tensor(Y))
    other = [[0.5] * 4] * 3
    (second,) = method.updates(net, linear.as_images(other), torch.tensor(Y))
    ((before, _),) = second.more
    same(before.x_adv - linear.as_images(other), linear.as_rows(first.x_adv - linear.as_images(X)), 1e-4)


@pytest.mark.parametrize("steps", [1, 3])
def test_atta_goes_on_where_the_epoch_before_ended(steps: int) -> None:
    method, net = ATTA(Linf(EPS), steps=steps, step_size=0.03), linear.network(W)
    noise = linear.as_rows(0.001 * noise_like(linear.as_images(X), "normal", generator_of(X)))
    start = legal(added(X, noise), X, EPS)
    for _ in range(3):
        wanted = linear.pgd(W, start, X, Y, eps=EPS, step=0.03, steps=steps)
        same(step_on(method, net, X, Y).x_adv, wanted, 1e-4)
        start = wanted
    moved = float((torch.tensor(wanted) - torch.tensor(X)).abs().max())
    assert moved == pytest.approx(min(9 if steps == 3 else 3, EPS / 0.03) * 0.03, abs=5e-3)


@pytest.mark.parametrize("kind", [ATTA, FGSMPGI])
def test_perturbations_start_anew_as_often_as_said(kind: type[ATTA] | type[FGSMPGI]) -> None:
    method, net = kind(Linf(EPS), reset_epochs=2), linear.network(W)
    shown = []
    for _ in range(4):
        shown.append(step_on(method, net, X, Y).x_adv)
        assert method.end_epoch(net) is None
    assert torch.equal(shown[0], shown[2]) and torch.equal(shown[1], shown[3]) and not torch.equal(shown[0], shown[1])


def polar(rows: list[list[float]]) -> Tensor:
    """``D (D^T D)^(-1/2)``, the gradient of the nuclear norm, by an eigendecomposition."""
    d = torch.tensor(rows, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(d.T @ d)
    keep = values > 1e-12
    return d @ (vectors[:, keep] / values[keep].sqrt()) @ vectors[:, keep].T


def test_the_nuclear_norm_and_its_gradient() -> None:
    d = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    value = nuclear_norm(d)
    torch.testing.assert_close(value, torch.linalg.eigvalsh(d.T @ d).clamp_min(0).sqrt().sum())
    (gradient,) = torch.autograd.grad(value, d)
    torch.testing.assert_close(gradient, polar(d.tolist()))
    zero = torch.zeros(4, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(nuclear_norm(zero), zero)
    assert bool(gradient.isfinite().all())


def test_nuat_attacks_with_the_norm_in_every_other_batch() -> None:
    weight = 3.0
    method, net = NuAT(Linf(EPS), nuclear_weight=weight), linear.network(W)
    method.at_epoch(99, 100)
    corner = linear.as_rows(EPS / 2 * noise_like(linear.as_images(X), "uniform", generator_of(X)).sign())
    start = [[linear.clip(value, 0, 1) for value in row] for row in added(X, corner)]
    w = torch.tensor(W, dtype=torch.float64)
    away = polar(((torch.tensor(start, dtype=torch.float64) - torch.tensor(X, dtype=torch.float64)) @ w.T).tolist()) @ w
    for batch in range(4):
        gradient = torch.tensor(gradients(W, start, Y), dtype=torch.float64) + batch % 2 * weight * away
        wanted = legal(added(start, signs(gradient.tolist(), EPS)), X, EPS)
        views = step_on(method, net, X, Y)
        same(views.x_adv, wanted, 1e-7)
        x = linear.as_images(X)
        apart = torch.linalg.svdvals((net(x) - net(views.x_adv)).detach()).sum() / len(X)
        loss = nn.functional.cross_entropy(net(x), torch.tensor(Y)) + weight * apart
        torch.testing.assert_close(method.loss(views, torch.tensor(Y)), loss)


@pytest.mark.parametrize(
    ("given", "epoch", "epochs", "weight"),
    [(None, 0, 100, 0.0), (None, 45, 100, 2.0), (None, 95, 100, 4.0), (10, 5, 100, 2.0), (0, 0, 100, 4.0)],
)
def test_the_weight_of_the_norm_grows(given: float | None, epoch: float, epochs: int, weight: float) -> None:
    method = NuAT(Linf(EPS), nuclear_weight=4.0, weight_epochs=given)
    assert method.weight == 4.0  # a loop that says nothing
    method.at_epoch(epoch, epochs)
    assert method.weight == pytest.approx(weight)
    assert bool(NuAT(Linf(EPS), weight_epochs=20).unreached(10)) and not NuAT(Linf(EPS)).unreached(10)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(4 * 36, 2)

    def forward(self, x: Tensor) -> Output:
        embedding = self.body(x)
        return Output(self.head(embedding), embedding)


def loader(**options: Any) -> ImageLoader:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (22, 1, 6, 6), generator=generator, dtype=torch.uint8)
    data = ImageData(images, torch.arange(22) % 2, ("a", "b"))
    return ImageLoader(data, batch_size=8, augment=Augment(padding=2, flip=True), seed=1, **options)


def run(method: Method, out: Path | None = None, train: Any = None) -> dict[str, Tensor]:
    torch.manual_seed(0)
    net, goal = Net(), Objective(method)
    optimizer = torch.optim.SGD(parameter_groups(net, goal, lr=0.05))
    train = loader(origins=method.per_image) if train is None else train
    fit(net, train, goal, epochs=4, optimizer=optimizer, out=out, checkpoint_every=out and 2, progress=False)
    return {**net.state_dict(), **goal.state_dict()}


@pytest.mark.parametrize(
    "build",
    [
        lambda: FGSMPGI(Linf(EPS), reset_epochs=3),
        lambda: FGSMPGI(Linf(EPS), prior="epoch"),
        lambda: FGSMPGI(Linf(EPS), prior="batch"),
        lambda: ATTA(Linf(EPS), reset_epochs=2),
        lambda: ATTA(L2(0.5), ramp_epochs=2),
        lambda: AWP(Linf(EPS), method=ATTA),
        lambda: NuAT(Linf(EPS)),
    ],
    ids=["momentum", "epoch", "batch", "atta", "atta l2", "awp", "nuat"],
)
@pytest.mark.parametrize("update", [6, 11])
def test_a_run_that_is_killed_ends_bit_for_bit_the_same(
    build: Any, update: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In mid-epoch, between two checkpoints, with crops and flips."""
    whole = run(build())

    def killed(self: Objective, *given: Any) -> Any:
        killed.count += 1
        if killed.count == update:
            raise Interrupted("here", 15)
        return losses(self, *given)

    losses, killed.count = Objective.losses, 0
    with monkeypatch.context() as context:
        context.setattr(Objective, "losses", killed)
        with pytest.raises(Interrupted):
            run(build(), tmp_path / "run")
    again = run(build(), tmp_path / "run")
    assert again.keys() == whole.keys()
    assert all(torch.equal(again[name], value) for name, value in whole.items())


def test_numbers_from_any_loader() -> None:
    """Batches ``(x, y, index)`` of a loader of the caller's are as good as our own, where nothing is augmented."""
    pairs = [(x, y, origin) for x, y, origin in loader(origins=True)]
    plain = [(x, y, Origin(origin.index)) for x, y, origin in pairs]
    numbers = [(x, y, origin.index.int()) for x, y, origin in pairs]
    named = [{"image": x, "label": y, "index": origin.index.tolist()} for x, y, origin in pairs]
    results = [run(ATTA(Linf(EPS)), train=train) for train in (plain, numbers, named)]
    assert all(torch.equal(result[name], value) for name, value in results[0].items() for result in results[1:])


def test_batches_that_do_not_say_which_images_they_hold_are_refused_before_training() -> None:
    with pytest.raises(ValueError, match=r"training: the method keeps something of each image.*origins=True"):
        run(ATTA(Linf(EPS)), train=loader())
    with pytest.raises(ValueError, match=r"FGSMPGI keeps a perturbation of each image and was not told"):
        next(Objective(FGSMPGI(Linf(EPS))).losses(Net(), torch.rand(2, 1, 6, 6), torch.tensor([0, 1])))


def test_the_numbers_of_one_batch_do_not_serve_the_next() -> None:
    method, net, x, y = ATTA(Linf(EPS)), Net(), torch.rand(2, 1, 6, 6), torch.tensor([0, 1])
    method.at_images(Origin(torch.tensor([0, 1])))
    next(method.updates(net, x, y))
    with pytest.raises(ValueError, match="was not told which images these are"):
        next(method.updates(net, x, y))


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: FGSMPGI(Linf(EPS), prior="mep"), "prior='mep' is unknown; write 'momentum', 'epoch' or 'batch'"),
        (lambda: FGSMPGI(Linf(EPS), consistency=-1.0), "consistency"),
        (lambda: FGSMPGI(Linf(EPS), reset_epochs=0), "reset_epochs=0 must be at least 1"),
        (lambda: NFGSM(Linf(EPS), noise=-1.0), "noise"),
        (lambda: NuAT(Linf(EPS), start=1.5), "start"),
        (lambda: NuAT(Linf(EPS), nuclear_weight=-1.0), "nuclear_weight"),
    ],
)
def test_settings_outside_their_range(build: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build()


def test_perturbations_of_places_in_a_batch_are_not_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under ``prior="batch"`` a row is another image in each process."""
    shared = []
    for prior in ("batch", "epoch"):
        method = FGSMPGI(Linf(EPS), prior=prior)
        monkeypatch.setattr(method.kept, "exchange", lambda prior=prior: shared.append(prior))
        method.end_epoch(torch.nn.Identity())
    assert shared == ["epoch"]


def test_only_methods_that_may_roll_back_have_their_state_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = (FastAT(Linf(EPS)), FastAT(Linf(EPS), guard=False), AWP(Linf(EPS)), NFGSM(Linf(EPS)), ATTA(Linf(EPS)))
    assert [kind.may_stop for kind in kinds] == [True, False, False, False, False]


def test_numbers_of_images_are_an_origin() -> None:
    x, y = torch.rand(2, 1, 6, 6), torch.tensor([0, 1])
    objective = Objective(FGSMPGI(Linf(EPS)))
    next(objective.losses(Net(), x, y, torch.tensor([4, 1])))
    assert torch.equal(objective.method.kept.written.nonzero().flatten(), torch.tensor([1, 4]))
