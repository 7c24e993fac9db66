"""What every training method must hold, alone and with every regularizer. Both are found by class."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from inspect import signature
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

import protoat.methods
import protoat.regularizers
from protoat import Objective
from protoat.attacks import PGD
from protoat.data import ImageData, Origin
from protoat.functional.norms import norm_of
from protoat.methods import NFGSM, PGDAT, AdversarialTraining, BiaMAT, Distillation, FreeAT, Method, Standard
from protoat.pretraining import ACL, RoCL
from protoat.regularizers import TLA, Regularizer
from protoat.runs.train import _say_short_reach
from protoat.threats import L1, L2, Linf, ThreatModel
from protoat.types import Forwards
from protoat.weighting import GroupDRO, Weighting

from . import parts

THREATS = {"linf": Linf(0.1), "l2": L2(0.5), "l1": L1(2)}


def auxiliary() -> ImageData:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (30, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return ImageData(pixels, torch.arange(30) % 3, ("a", "b", "c"))


# Methods that need more than a threat model to be built.
ROWS: dict[type[Method], Callable[..., Method]] = {
    AdversarialTraining: lambda threat, **options: AdversarialTraining(PGD(threat, steps=2), **options),
    BiaMAT: lambda threat, **options: BiaMAT(threat, auxiliary=auxiliary(), **options),
}
SHORT = {"steps": 2, "replays": 3, "temperature": 1.5}
# Without a random start an attack does not depend on the seed; clean training has no attack.
CLEAN: tuple[type[Method], ...] = (Distillation, Standard)
DETERMINISTIC = ("Distillation", "FGSMAT", "Standard", "FreeAT")
# How far training images may lie from the clean ones, in radii, where that is more than 1.
REACH: dict[type[Method], float] = {NFGSM: 3.0}
METHODS = parts.concrete(Method, protoat.methods)
REGULARIZERS: list[type[Regularizer] | None] = [None, *parts.concrete(Regularizer, protoat.regularizers)]

each = pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.__name__)
with_each = pytest.mark.parametrize(
    "regularizer", REGULARIZERS, ids=lambda regularizer: regularizer.__name__ if regularizer else "alone"
)
# They meet in the objective alone, so what is not about how they meet is tried with one regularizer for each method.
alone_and_with_one = pytest.mark.parametrize(
    ("kind", "regularizer"),
    [*zip(METHODS, cycle([None])), *zip(METHODS, cycle(REGULARIZERS[1:]))],
    ids=lambda part: part.__name__ if part else "alone",
)


def build(kind: type[Method], threat: ThreatModel = THREATS["linf"], **options: Any) -> Method:
    known = signature(kind).parameters
    short = {key: value for key, value in SHORT.items() if key in known}
    return ROWS[kind](threat, **options) if kind in ROWS else kind(threat, **short, **options)


def objective(
    kind: type[Method], regularizer: type[Regularizer] | None = None, classes: int = 4, **options: Any
) -> Objective:
    metric = None
    if regularizer is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            metric = regularizer(classes, 128)  # type: ignore[call-arg]
    return Objective(build(kind, **options), metric, norm_weight=0.01)


def net(classes: int = 4) -> parts.Net:
    return parts.trained(classes)[0].train()


def batch(size: int = 12, classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    _, x, y = parts.trained(classes, 64)
    rows = torch.randperm(64, generator=torch.Generator().manual_seed(seed))
    rows = torch.cat([torch.stack([rows[y[rows] == c][0] for c in range(classes)]), rows])[:size]
    return x[rows], y[rows]


def labelled(*labels: int) -> tuple[Tensor, Tensor]:
    """Images with these labels, none of them twice."""
    _, x, y = parts.trained(4, 64)
    left = {label: iter((y == label).nonzero().flatten().tolist()) for label in set(labels)}
    rows = [next(left[label]) for label in labels]
    return x[rows], y[rows]


def where(x: Tensor) -> Origin:
    """Images of a batch numbered by what they show, as a data set would."""
    return Origin((x.flatten(1).double() @ torch.arange(1.0, x[0].numel() + 1).double()).long() % 97)


def updates(method: Method, model: torch.nn.Module, x: Tensor, y: Tensor) -> Iterator[Forwards]:
    method.at_images(where(x))
    return method.updates(model, x, y)


def train(model: torch.nn.Module, goal: Objective, batches: list[tuple[Tensor, Tensor]], first: int = 0) -> int:
    """Plain steps, the random state set anew for each batch as `fit` does; returns how many."""
    torch.manual_seed(0)
    goal.prepare(model)
    optimizer = torch.optim.SGD([*model.parameters(), *goal.parameters()], lr=0.02)
    steps = 0
    for number, (x, y) in enumerate(batches, first):
        torch.manual_seed(number)
        for terms in goal.losses(model, x, y, where(x)):
            assert terms.total.shape == () and bool(terms.total.isfinite())
            optimizer.zero_grad()
            terms.total.backward()
            optimizer.step()
            steps += 1
    return steps


def finite(*modules: torch.nn.Module | None) -> bool:
    tensors = [value for module in modules if module is not None for value in module.state_dict().values()]
    return all(bool(value.isfinite().all()) for value in tensors)


def test_some_are_found() -> None:
    assert {Standard, FreeAT, BiaMAT} <= set(METHODS)
    assert protoat.regularizers.SoftTriple in REGULARIZERS and len(REGULARIZERS) > 2


@each
def test_a_default_attack_of_training_gets_no_warning(kind: type[Method], caplog: pytest.LogCaptureFixture) -> None:
    _say_short_reach(ROWS.get(kind, kind)(THREATS["linf"]))
    assert not caplog.messages


def test_an_attack_of_training_that_cannot_cross_its_ball_gets_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    for method in (PGDAT(THREATS["linf"], steps=7, step_size=0.01), NFGSM(THREATS["linf"], noise=0, step_size=0.05)):
        caplog.clear()
        _say_short_reach(method)
        assert len(caplog.messages) == 1


@each
def test_the_threat_model_is_enough(kind: type[Method]) -> None:
    method = build(kind) if kind in ROWS else kind(THREATS["linf"])
    assert method.threat == THREATS["linf"] and method.eps == 0.1


@each
@with_each
def test_gradients_reach_model_and_regularizer(kind: type[Method], regularizer: type[Regularizer] | None) -> None:
    model, goal, (x, y) = net(), objective(kind, regularizer), batch()
    goal.prepare(model)
    goal.method.at_epoch(20, 40)
    # A teacher has learned by then.
    own = goal.prototypes() if kind is Distillation else list(goal.parameters())
    learn = {**dict(model.named_parameters()), **{f"{i}": value for i, value in enumerate(own)}}
    images, yields, running = x.clone(), 0, goal.losses(model, x, y, where(x))
    for terms in running:
        assert all(value.grad is None for value in learn.values()), "only the caller's backward trains"
        terms.total.backward()
        yields += 1
        for name, value in learn.items():
            assert value.grad is not None and bool(value.grad.isfinite().all()), name
        assert float(model.features[0].weight.grad.abs().max()) > 0
        assert (terms.metric is None) == (regularizer is None)
        for value in own:
            assert float(value.grad.abs().max()) > 0
        for value in learn.values():
            value.grad = None
    assert yields == goal.updates_per_batch
    assert torch.equal(x, images) and not x.requires_grad
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())


class Fixed(Weighting):
    """The same weights for all batches, and a note of what was told."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = torch.tensor(values)
        self.told: list[tuple[Tensor, Tensor]] = []

    def weights(self, groups: Tensor, losses: Tensor, wrong: Tensor, number: int) -> Tensor:
        self.told.append((losses, wrong))
        return self.present(groups)

    def present(self, groups: Tensor) -> Tensor:
        return self.values[groups]

    def signal(self, losses: Tensor, wrong: Tensor) -> Tensor:
        raise NotImplementedError

    growth = signal  # type: ignore[assignment]


@each
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_of_each_image_and_its_weight(kind: type[Method], smoothing: float) -> None:
    """`loss` is the mean of `losses`, gradients and all, and the objective weighs each image of them."""
    model, (x, y) = net(), batch()
    method = build(kind)
    method.prepare(model)
    method.at_epoch(20, 40)
    method.label_smoothing = smoothing
    for forwards in updates(method, model, x, y):
        losses, rest = method.losses(forwards, y), method.other_loss(forwards, y)
        assert losses.shape == y.shape
        plain, mean = method.loss(forwards, y), losses.mean() + rest
        torch.testing.assert_close(mean, plain)
        learn = [p for p in (*model.parameters(), *method.parameters()) if p.requires_grad]
        gradients = [torch.autograd.grad(v, learn, retain_graph=True, allow_unused=True) for v in (plain, mean)]
        for ours, theirs in zip(*gradients, strict=True):
            assert (ours is None) == (theirs is None)
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
        method.loss(forwards, y).backward()
    model, goal = net(), Objective(build(kind), label_smoothing=smoothing, weighting=Fixed([0.5, 2.0, 0.0, 1.0]))
    goal.prepare(model)
    for terms in goal.losses(model, x, y, where(x)):
        losses, wrong = goal.weighting.told[-1]
        weighted = (torch.tensor([0.5, 2.0, 0.0, 1.0])[y] * losses).mean()
        if kind is not BiaMAT:
            torch.testing.assert_close(terms.base.detach(), weighted)
        assert wrong.dtype == torch.bool and terms.base.requires_grad and not losses.requires_grad
        terms.total.backward()
    assert goal.method.weights is None


@alone_and_with_one
def test_a_frozen_part_stays_as_it_is(kind: type[Method], regularizer: type[Regularizer] | None) -> None:
    model, goal = net(), objective(kind, regularizer)
    frozen = dict(model.features[:2].named_parameters())
    before = {name: value.requires_grad_(False).clone() for name, value in frozen.items()}
    train(model, goal, [batch()])
    for name, value in frozen.items():
        assert value.grad is None and not value.requires_grad and torch.equal(value, before[name]), name


@alone_and_with_one
def test_two_classes(kind: type[Method], regularizer: type[Regularizer] | None) -> None:
    model, goal = net(classes=2), objective(kind, regularizer, classes=2)
    assert train(model, goal, [batch(classes=2)] * 2) == 2 * goal.updates_per_batch
    assert finite(model, goal.regularizer)


@alone_and_with_one
def test_batches_of_any_size_and_mixture(kind: type[Method], regularizer: type[Regularizer] | None) -> None:
    model, goal = net(), objective(kind, regularizer)
    one_of_a_class, without_a_positive = labelled(0, 0, 0, 1), labelled(2, 0, 3, 1)
    train(model, goal, [batch(12), batch(5), one_of_a_class, batch(16), without_a_positive])
    assert finite(model, goal.regularizer)


@alone_and_with_one
def test_a_batch_of_one_class(kind: type[Method], regularizer: type[Regularizer] | None) -> None:
    model, goal = net(), objective(kind, regularizer)
    if regularizer is TLA:
        with pytest.raises(ValueError, match="triplets need two classes"):
            train(model, goal, [labelled(2, 2, 2, 2)])
    else:
        train(model, goal, [labelled(2, 2, 2, 2)])
    assert finite(model, goal.regularizer)


@alone_and_with_one
def test_the_same_seed_gives_the_same_weights(kind: type[Method], regularizer: type[Regularizer] | None) -> None:
    results = []
    for _ in range(2):
        model, goal = net(), objective(kind, regularizer)
        train(model, goal, [batch(seed=1), batch(seed=2)])
        results.append({**model.state_dict(), **goal.state_dict()})
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())


@each
def test_another_seed_gives_another_attack(kind: type[Method]) -> None:
    if kind.__name__ in DETERMINISTIC:
        pytest.skip("draws nothing")
    images = []
    for seed in (1, 2):
        model, method = net().eval(), build(kind)
        torch.manual_seed(0)
        method.prepare(model)
        torch.manual_seed(seed)
        images.append(next(updates(method, model, *batch())).x_adv)
    assert not torch.equal(*images)


@alone_and_with_one
def test_bfloat16_autocast(kind: type[Method], regularizer: type[Regularizer] | None) -> None:
    model, goal, (x, y) = net(), objective(kind, regularizer), batch()
    goal.prepare(model)
    running = goal.losses(model, x, y, where(x))
    for _ in range(goal.updates_per_batch):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            terms = next(running)
        assert terms.total.dtype == torch.float32 and bool(terms.total.isfinite())
        terms.total.backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in model.parameters())


@alone_and_with_one
def test_an_interrupted_run_goes_on_exactly(kind: type[Method], regularizer: type[Regularizer] | None) -> None:
    batches = [batch(seed=seed) for seed in range(4)]

    def begun() -> Objective:
        goal = objective(kind, regularizer)
        goal.weighting = GroupDRO(step=0.5) if regularizer is None else None
        return goal

    whole, goal = net(), begun()
    train(whole, goal, batches)
    broken, first = net(), begun()
    train(broken, first, batches[:2])
    # Through bytes, as a checkpoint does, into objects that know nothing of the first ones.
    stored = load(save({name: value.contiguous() for name, value in first.state_dict().items()}))
    second = begun()
    torch.manual_seed(9)
    second.prepare(broken)
    second.load_state_dict(stored)
    train(broken, second, batches[2:], first=2)
    for name, value in whole.state_dict().items():
        assert torch.equal(broken.state_dict()[name], value), name
    after, expected = second.state_dict(), goal.state_dict()
    assert after.keys() == expected.keys()
    assert all(torch.equal(after[name], value) for name, value in expected.items())


@pytest.mark.parametrize("kind", [*METHODS, ACL, RoCL], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    ("spoil", "said"),
    [(lambda x: (x - 0.13) / 0.31, "images lie in .* expected"), (lambda x: (255 * x).byte(), "divide 8-bit pixels")],
    ids=["normalised", "bytes"],
)
def test_images_outside_the_range_are_refused(kind: type[Method], spoil: Any, said: str) -> None:
    x, y = batch()
    with pytest.raises(ValueError, match=said):
        next(Objective(build(kind)).losses(net(), spoil(x), y))


@each
@pytest.mark.parametrize("threat", THREATS.values(), ids=THREATS.keys())
def test_images_keep_to_the_budget_and_the_range(kind: type[Method], threat: ThreatModel) -> None:
    model, (x, y) = net(), batch()
    x[0], x[1] = 0.0, 1.0
    method = build(kind, threat)
    method.prepare(model)
    goal = Objective(method)
    for views in updates(method, model, x, y):
        goal.method.loss(views, y).backward()
        assert bool((threat.geometry.distance(views.x_adv, x) <= REACH.get(kind, 1) * threat.eps + 1e-5).all())
        assert float(views.x_adv.detach().min()) >= 0 and float(views.x_adv.detach().max()) <= 1
    assert (kind in CLEAN) == torch.equal(views.x_adv, x)


@each
def test_the_radius_grows_as_the_ramp_says(kind: type[Method]) -> None:
    model, (x, y) = net(), batch()
    method = build(kind, ramp_epochs=4)
    method.prepare(model)
    for epoch, share in [(0, 0.0), (1, 0.25), (4, 1.0), (40, 1.0)]:
        method.at_epoch(epoch, 50)
        assert method.eps == pytest.approx(0.1 * share)
        for views in updates(method, model, x, y):
            method.loss(views, y).backward()
            moved = float(norm_of("linf").distance(views.x_adv.detach(), x).max())
            assert moved <= REACH.get(kind, 1) * 0.1 * share + 1e-6
    assert kind in CLEAN or moved > 0.05


@each
def test_training_learns(kind: type[Method]) -> None:
    torch.manual_seed(0)
    model, (x, y) = parts.Net(4).train(), batch(48)
    train(model, objective(kind), [(x, y)] * (80 if kind is Distillation else 25))  # a teacher has to learn first
    with torch.no_grad():
        accuracy = (model.eval()(x).logits.argmax(1) == y).float().mean()
    assert accuracy > 0.6


@pytest.mark.slow
def test_two_processes_learn_the_same(in_two_processes: Callable[..., None]) -> None:
    in_two_processes(Path(__file__).with_name("two_processes.py"))
