"""Defensive distillation against its equations, and against those who are to find it out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protoat.attacks import APGDT, CWPGD, PGD, MeasurementWarning, Square
from protoat.data import Digits, ImageData
from protoat.evaluation import lint
from protoat.methods import AWP, Distillation
from protoat.models import MultiPrototypeHead, with_embedding, with_head
from protoat.modes import KnownModes
from protoat.objective import Objective
from protoat.regularizers import NPair
from tests.evaluation.cheats import THREAT, distilled


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).double().train()


def batch() -> tuple[Tensor, Tensor]:
    x = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x, torch.arange(12) % 3


def softmax(logits: Tensor, temperature: float) -> list[list[float]]:
    exponentials = (logits.detach() / temperature).exp()
    return (exponentials / exponentials.sum(1, keepdim=True)).tolist()


def step(method: Distillation, model: nn.Module, *, epoch: float, lr: float = 0.5) -> float:
    """One update at an epoch of ten; the loss before it."""
    method.prepare(model)
    method.at_epoch(epoch, 10)
    learn = [*model.parameters(), *method.parameters()]
    optimizer = torch.optim.SGD(learn, lr=lr)
    (terms,) = [self_terms(method, model, optimizer)]
    return terms


def self_terms(method: Distillation, model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    x, y = batch()
    for terms in Objective(method).losses(model, x, y):
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()
    return float(terms.total.detach())


@pytest.mark.parametrize("temperature", [1.0, 5.0, 40.0])
def test_first_the_teacher_learns_labels_at_the_temperature(temperature: float) -> None:
    model, (x, y) = net(), batch()
    method, before = Distillation(THREAT, temperature=temperature), copy.deepcopy(model.state_dict())
    probabilities = softmax(net()(x), temperature)
    expected = (
        -sum(float(torch.tensor(p[label]).log()) for p, label in zip(probabilities, y.tolist(), strict=True)) / 12
    )
    assert step(method, model, epoch=0) == pytest.approx(expected, rel=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert method.teacher is not None
    assert not torch.equal(method.teacher[1].weight, model[1].weight)


@pytest.mark.parametrize("temperature", [1.0, 5.0, 40.0])
def test_then_the_model_learns_what_the_teacher_says_at_the_temperature(temperature: float) -> None:
    model, (x, _) = net(), batch()
    method = Distillation(THREAT, temperature=temperature)
    step(method, model, epoch=0)
    assert method.teacher is not None
    taught = copy.deepcopy(method.teacher.state_dict())
    teacher = copy.deepcopy(method.teacher).eval()
    soft, own = softmax(teacher(x), temperature), softmax(copy.deepcopy(model)(x), temperature)
    expected = -sum(
        a * float(torch.tensor(b).log()) for p, q in zip(soft, own, strict=True) for a, b in zip(p, q, strict=True)
    )
    before = model[1].weight.detach().clone()
    assert step(method, model, epoch=5) == pytest.approx(expected / 12, rel=1e-5)
    assert all(torch.equal(value, taught[name]) for name, value in method.teacher.state_dict().items())
    assert not torch.equal(model[1].weight, before)


@pytest.mark.parametrize(
    ("teacher_epochs", "epoch", "teaches"), [(None, 4.9, False), (None, 5.0, True), (2.0, 2.0, True)]
)
def test_when_the_teacher_is_done(teacher_epochs: float | None, epoch: float, teaches: bool) -> None:
    method = Distillation(THREAT, teacher_epochs=teacher_epochs)
    model = net()
    before = model[1].weight.detach().clone()
    step(method, model, epoch=epoch)
    assert torch.equal(model[1].weight, before) != teaches
    assert not method.unreached(10)
    assert "teacher_epochs" in Distillation(THREAT, teacher_epochs=10).unreached(10)[0]


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    "options", [{"norm": "weights", "norm_weight": 0.1}, {"regularizer": NPair(3, 8), "dml_input": "clean"}, {}]
)
def test_all_terms_are_of_whoever_learns(options: dict[str, Any], wrapped: bool) -> None:
    (x, y), index = batch(), torch.arange(12)
    names = [f"{label}/{mode}" for label in range(3) for mode in range(2)]
    mode = 2 * y + index // 3 % 2
    modes = KnownModes(ImageData((255 * x).byte(), y, tuple("abc"), mode, tuple(names)))
    model = with_head(with_embedding(net(), layer="3"), MultiPrototypeHead(8, 3, prototypes_per_class=2).double())
    method = AWP(THREAT, method=Distillation) if wrapped else Distillation(THREAT)
    objective = Objective(method, modes=modes, **options)
    objective.prepare(model)
    teacher = (method.method if isinstance(method, AWP) else method).teacher
    for epoch, learns, rests in ((0, teacher, model), (9, model, teacher)):
        method.at_epoch(epoch, 10)
        for terms in objective.losses(model, x, y, index):
            terms.total.backward()
        assert all(parameter.grad is not None for parameter in learns.parameters())
        assert all(parameter.grad is None for parameter in rests.parameters())
        objective.zero_grad()
        model.zero_grad()


def test_awp_around_it_moves_the_model_only_when_it_learns() -> None:
    model, (x, y) = net(), batch()
    method = AWP(THREAT, method=Distillation)
    method.prepare(model)
    for epoch in (0, 9):
        method.at_epoch(epoch, 10)
        for views in method.updates(model, x, y):
            method.loss(views, y).backward()
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


@pytest.mark.parametrize("bad", [{"temperature": 0.5}, {"temperature": float("inf")}, {"teacher_epochs": 0}])
def test_mistakes_are_named(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Distillation(THREAT, **bad)


@pytest.mark.filterwarnings("ignore:saturated.*:RuntimeWarning")
def test_pgd_on_cross_entropy_overstates_it_and_attacks_on_the_margin_do_not() -> None:
    data = Digits().load("test")
    model, x, y = distilled(), data.images.float() / 255, data.labels
    x_adv = x.clone()
    for _ in range(20):  # by hand, as an attack of ours may change its loss where gradients vanish
        leaf = x_adv.clone().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)
        x_adv = (x_adv + 0.025 * slope.sign()).clamp(x - 0.2, x + 0.2).clamp(0, 1)

    def right(images: Tensor, rows: slice = slice(None)) -> float:
        return float((model(images).argmax(1) == y[rows]).float().mean())

    assert float((slope == 0).flatten(1).all(1).float().mean()) > 0.5
    assert right(x) > 0.85
    assert right(x_adv) > 0.6
    assert right(PGD(THREAT, steps=20).perturb(model, x, y)) < 0.1, "it climbs rescaled logits"
    assert right(CWPGD(THREAT, steps=20).perturb(model, x, y)) < 0.1
    assert right(APGDT(THREAT, steps=20, num_targets=2).perturb(model, x, y)) < 0.1
    few = slice(100)
    assert right(Square(THREAT, queries=200).perturb(model, x[few], y[few]), few) < 0.3


def test_attacks_and_lint_find_it_out() -> None:
    data = Digits().load("test")
    model, x, y = distilled(), data.images.float() / 255, data.labels
    attack = PGD(THREAT, steps=20)
    with pytest.warns(MeasurementWarning, match="saturated"):
        result = attack(model, x, y)
    assert float(result.correct.float().mean()) < 0.1
    assert "saturated" in [finding.code for finding in lint(model, data, THREAT, {"pgd20": attack})]
