"""PGD and FGSM against loops written from their equations, and against foolbox and torchattacks from one start."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from protoat.attacks import FGSM, PGD, Attack
from protoat.attacks.gradient import input_gradient
from protoat.functional.losses import cross_entropy, margin
from protoat.functional.margins import capped_margin
from protoat.threats import L1, L2, Linf, NormName, ThreatModel
from protoat.types import Output
from tests.contracts.parts import Logits

Vector = list[float]


class Tanh(nn.Module):
    """Two layers whose derivative is easily written down: ``z = V tanh(W x + b)``."""

    def __init__(self, pixels: int, classes: int) -> None:
        super().__init__()
        self.inner = nn.Linear(pixels, 5)
        self.outer = nn.Linear(5, classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(torch.tanh(self.inner(x.flatten(1))))


def slope_of_cross_entropy(model: Tanh, x: Vector, label: int) -> Vector:
    """The derivative by the chain rule, one number at a time."""
    w, b, v = (t.tolist() for t in (model.inner.weight, model.inner.bias, model.outer.weight))
    hidden = [
        math.tanh(sum(wi * xi for wi, xi in zip(row, x, strict=True)) + bias) for row, bias in zip(w, b, strict=True)
    ]
    logits = [sum(vi * h for vi, h in zip(row, hidden, strict=True)) for row in v]
    total = sum(math.exp(z - max(logits)) for z in logits)
    d_logits = [math.exp(z - max(logits)) / total - (k == label) for k, z in enumerate(logits)]
    d_hidden = [sum(d * row[j] for d, row in zip(d_logits, v, strict=True)) * (1 - h * h) for j, h in enumerate(hidden)]
    return [sum(d * row[i] for d, row in zip(d_hidden, w, strict=True)) for i in range(len(x))]


def bisected(adv: Vector, x: Vector, eps: float) -> Vector:
    """All moves made shorter by one length, then cut to the range, until they add up to the radius."""

    def shorter(by: float) -> Vector:
        moves = [math.copysign(max(abs(a - p) - by, 0), a - p) for a, p in zip(adv, x, strict=True)]
        return [min(max(p + m, 0), 1) for p, m in zip(x, moves, strict=True)]

    low, high = 0.0, 0.0 if sum(abs(a - p) for a, p in zip(shorter(0), x, strict=True)) <= eps else 9.0
    for _ in range(80):
        middle = (low + high) / 2
        inside = sum(abs(a - p) for a, p in zip(shorter(middle), x, strict=True)) <= eps
        low, high = (low, middle) if inside else (middle, high)
    return shorter(high)


def unit_step(slope: Vector, adv: Vector, norm: NormName) -> Vector:
    """The direction of a step; under L1, with few pixels, that of the largest slope of a pixel that may still move."""
    if norm == "linf":
        return [math.copysign(1, s) if s else 0 for s in slope]
    if norm == "l2":
        return [s / math.sqrt(sum(s * s for s in slope)) for s in slope]
    free = [abs(s) * ((a < 1) if s > 0 else (a > 0)) for s, a in zip(slope, adv, strict=True)]
    return [math.copysign(1, s) if f == max(free) else 0 for s, f in zip(slope, free, strict=True)]


def projected(adv: Vector, x: Vector, eps: float, norm: NormName) -> Vector:
    if norm == "linf":
        return [min(max(a, p - eps, 0), p + eps, 1) for a, p in zip(adv, x, strict=True)]
    if norm == "l1":
        return bisected(adv, x, eps)
    length = math.sqrt(sum((a - p) ** 2 for a, p in zip(adv, x, strict=True)))
    share = min(1, eps / length) if length else 1
    return [min(max(p + share * (a - p), 0), 1) for a, p in zip(adv, x, strict=True)]


def slow_pgd(
    model: Tanh, start: Vector, x: Vector, label: int, *, eps: float, step: float, steps: int, norm: NormName, sign: int
) -> Vector:
    adv = start
    for _ in range(steps):
        slope = [sign * s for s in slope_of_cross_entropy(model, adv, label)]
        unit = unit_step(slope, adv, norm)
        adv = projected([a + step * u for a, u in zip(adv, unit, strict=True)], x, eps, norm)
    return adv


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("threat", [Linf(0.3), L2(0.8), L1(1.5)], ids=["linf", "l2", "l1"])
@pytest.mark.parametrize("start", [False, True], ids=["from the image", "random start"])
def test_pgd_is_its_equation(threat: ThreatModel, start: bool, targeted: bool) -> None:
    model = Tanh(8, 3).double()
    x, y = torch.rand(6, 2, 2, 2, dtype=torch.float64), torch.arange(6) % 3
    x[0], x[1] = 0, 1
    labels = (y + 1) % 3 if targeted else y
    attack = PGD(threat, steps=7, step_size=threat.eps / 3, random_start=start)
    ours = attack.perturb(model, x, y, targets=labels if targeted else None, generator=torch.Generator().manual_seed(5))
    starts = threat.geometry.random_start(x, threat.eps, torch.Generator().manual_seed(5)) if start else x
    for i in range(6):
        expected = slow_pgd(
            model,
            starts[i].flatten().tolist(),
            x[i].flatten().tolist(),
            int(labels[i]),
            eps=threat.eps,
            step=threat.eps / 3,
            steps=7,
            norm=threat.norm,
            sign=-1 if targeted else 1,
        )
        assert ours[i].flatten().tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_fgsm_is_its_equation() -> None:
    model, x, y = Tanh(8, 3).double(), torch.rand(6, 8, dtype=torch.float64), torch.arange(6) % 3
    for ours, image, label in zip(FGSM(Linf(0.2)).perturb(model, x, y).tolist(), x.tolist(), y.tolist(), strict=True):
        slope = slope_of_cross_entropy(model, image, label)
        expected = [min(max(p + 0.2 * math.copysign(1, s), 0), 1) for p, s in zip(image, slope, strict=True)]
        assert ours == pytest.approx(expected, abs=1e-12)


# Signs of slopes that differ in the last bits only may differ; an image where that happens takes another path.
def agree(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().flatten(1).amax(1) < 1e-5).float().mean().item()


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_foolbox_takes_the_same_path(digits: Callable[..., Any], norm: NormName, targeted: bool) -> None:
    foolbox = pytest.importorskip("foolbox")
    model, x, y = digits()
    threat = ThreatModel(0.15 if norm == "linf" else 1.0, norm)
    kind = foolbox.attacks.LinfPGD if norm == "linf" else foolbox.attacks.L2PGD
    theirs = kind(steps=10, abs_stepsize=threat.eps / 4, random_start=False)
    targets = (y + 1) % 10
    wanted = foolbox.criteria.TargetedMisclassification(targets) if targeted else foolbox.criteria.Misclassification(y)
    wrapped = foolbox.PyTorchModel(Logits(model).eval(), bounds=(0, 1), device="cpu")
    x_theirs = theirs(wrapped, x, wanted, epsilons=threat.eps)[1]
    ours = PGD(threat, steps=10, step_size=threat.eps / 4, random_start=False)
    assert agree(ours.perturb(model, x, y, targets=targets if targeted else None), x_theirs) > 0.9


def test_foolbox_s_sparse_descent_finds_no_more(digits: Callable[..., Any]) -> None:
    foolbox = pytest.importorskip("foolbox")
    model, x, y = digits(count=100)
    theirs = foolbox.attacks.SparseL1DescentAttack(steps=20, abs_stepsize=2.5 * 3 / 20)
    wrapped = foolbox.PyTorchModel(Logits(model).eval(), bounds=(0, 1), device="cpu")
    left = int((~theirs(wrapped, x, foolbox.criteria.Misclassification(y), epsilons=3.0)[2]).sum())
    ours = int(PGD(L1(3), steps=20, random_start=False)(model, x, y).correct.sum())
    assert ours <= left < 60


def test_foolbox_takes_the_same_fgsm_step(digits: Callable[..., Any]) -> None:
    foolbox = pytest.importorskip("foolbox")
    model, x, y = digits()
    wrapped = foolbox.PyTorchModel(Logits(model).eval(), bounds=(0, 1), device="cpu")
    theirs = foolbox.attacks.LinfFastGradientAttack()(wrapped, x, foolbox.criteria.Misclassification(y), epsilons=0.2)[
        1
    ]
    assert agree(FGSM(Linf(0.2)).perturb(model, x, y), theirs) > 0.9


def test_torchattacks_takes_the_same_path(digits: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    torchattacks = pytest.importorskip("torchattacks")
    model, x, y = digits()
    attack = PGD(Linf(0.15), steps=10, step_size=0.03)
    noise = torch.empty(x.shape).uniform_(-1, 1, generator=torch.Generator().manual_seed(7))
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda tensor, low, high, **_: tensor.copy_(high * noise))
    theirs = torchattacks.PGD(Logits(model).eval(), eps=0.15, alpha=0.03, steps=10)(x, y)
    monkeypatch.undo()
    assert agree(attack.perturb(model, x, y, generator=torch.Generator().manual_seed(7)), theirs) > 0.9
    theirs = torchattacks.FGSM(Logits(model).eval(), eps=0.15)(x, y)
    assert agree(FGSM(Linf(0.15)).perturb(model, x, y), theirs) > 0.9


def test_an_image_is_robust_only_if_every_restart_fails(digits: Callable[..., Any]) -> None:
    model, x, y = digits(count=100)
    options = {"steps": 2, "step_size": 0.02}
    once, many = (PGD(Linf(0.13), restarts=n, **options)(model, x, y).correct for n in (1, 20))
    assert bool((many <= once).all())
    assert many.sum() < once.sum()


def test_with_restarts_an_image_leaves_the_batch_at_the_step_that_breaks_it(digits: Callable[..., Any]) -> None:
    model, x, y = digits()
    sizes: list[tuple[int, int]] = []

    def counting(output: Output, labels: Tensor) -> Tensor:
        adversarial = output.logits.argmax(1) != labels
        sizes.append((len(labels), int(adversarial.sum())))
        return cross_entropy(output, labels)

    result = PGD(Linf(0.15), steps=3, restarts=3, loss=counting)(model, x, y)
    sizes = sizes[1:]  # without the look at the model
    robust = int((model(x).logits.argmax(1) == y).sum())
    for at, (size, fell) in enumerate(sizes):
        assert size == robust, "only those still robust are attacked"
        # What the last step of a restart made is judged afterwards, by a forward without a loss.
        robust = sizes[at + 1][0] if at % 3 == 2 and at + 1 < len(sizes) else size - fell
    assert len({size for size, _ in sizes}) > 3
    assert int(result.correct.sum()) <= robust


def test_a_smaller_radius_takes_smaller_steps(digits: Callable[..., Any]) -> None:
    model, x, y = digits(count=4)
    attack = PGD(Linf(0.2), steps=3, step_size=0.1, random_start=False)
    half = PGD(Linf(0.1), steps=3, step_size=0.05, random_start=False).perturb(model, x, y)
    assert torch.equal(attack.perturb(model, x, y, eps=0.1), half)
    torch.testing.assert_close(attack.perturb(model, x, y, eps=torch.full((4,), 0.1)), half)


def test_any_loss_can_be_climbed(digits: Callable[..., Any]) -> None:
    model, x, y = digits(count=100)
    attack = PGD(Linf(0.12), loss=margin)
    assert attack(model, x, y).correct.sum() < (model(x).logits.argmax(1) == y).sum()
    assert attack.parameters()["loss"] == "protoat.functional.losses.margin"


@pytest.mark.parametrize("bn", ["eval", "train", "train_frozen"])
def test_batch_norm(bn: Any) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)).train()
    x, y = torch.rand(16, 1, 2, 2), torch.arange(16) % 2
    seen: list[tuple[bool, bool]] = []
    model[2].register_forward_pre_hook(lambda norm, _: seen.append((norm.training, model[3].training)))
    before = {name: value.clone() for name, value in model[2].named_buffers()}
    PGD(Linf(0.1), steps=3, bn=bn).craft(model, x, y)
    assert seen == [(bn != "eval", False)] * 3
    moved = {name for name, value in model[2].named_buffers() if not torch.equal(value, before[name])}
    assert moved == (set(before) if bn == "train" else set())
    assert all(module.training for module in model.modules()) and model[2].track_running_stats


def test_small_slopes_survive_float16() -> None:
    weight = torch.tensor([[1e-4, -1e-4], [-1e-4, 1e-4]])

    def half(x: Tensor) -> Output:
        # A slope of 1e-4 x 2e-4, below what float16 can hold.
        logits = (2e-4 * x.half()) @ weight.half().T
        return Output(logits, logits[:, :0])

    x, y = torch.full((1, 2), 0.5), torch.tensor([0])
    gradient = input_gradient(half, x, y, cross_entropy).gradient
    assert gradient.sign().tolist() == [[-1, 1]]
    exact = input_gradient(lambda x: Output(x @ weight.T, x), x, y, cross_entropy).gradient
    assert exact.sign().tolist() == [[-1, 1]]


def test_the_scale_of_the_loss_is_exact() -> None:
    model, x, y = Tanh(8, 3), torch.rand(6, 8), torch.arange(6) % 3
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(cross_entropy(Output(model(leaf), leaf), y).sum(), leaf)
    assert torch.equal(input_gradient(lambda x: Output(model(x), x), x, y, cross_entropy)[0], expected)


def test_the_network_inside_a_distributed_wrapper_is_attacked(digits: Callable[..., Any]) -> None:
    class Wrapper(nn.parallel.DistributedDataParallel):
        def __init__(self, module: nn.Module) -> None:
            nn.Module.__init__(self)
            self.module = module

        def forward(self, *_: Any) -> Any:
            raise AssertionError("the wrapper must not see the attack's passes")

    model, x, y = digits(count=4)
    attack: Attack = PGD(Linf(0.1), steps=2)
    assert torch.equal(attack(Wrapper(model), x, y).x_adv, attack(model, x, y).x_adv)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps=0 and restarts=1 must be at least 1"),
        ({"restarts": 0}, "restarts=0 must be at least 1"),
        ({"restarts": 2, "random_start": False}, "restarts without a random start"),
        ({"step_size": 0.0}, "step_size=0 must be positive"),
        ({"step_size": "2/0"}, "'2/0' is not a pixel distance"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PGD(Linf(0.1), **options)


def test_defaults() -> None:
    assert PGD(Linf("8/255")).step_size == pytest.approx(2 / 255)
    assert PGD(Linf("8/255"), steps=7, step_size="2/255").parameters() == {
        "attack": "PGD",
        "norm": "linf",
        "eps": 8 / 255,
        "bn": "eval",
        "seed": 0,
        "steps": 7,
        "step_size": 2 / 255,
        "random_start": True,
        "restarts": 1,
        "loss": "protoat.functional.losses.cross_entropy",
    }


def test_the_record_tells_losses_with_other_settings_apart() -> None:
    attack = PGD(Linf(0.1), loss=partial(capped_margin, kappa=50.0))
    assert attack.parameters()["loss"] == "protoat.functional.margins.capped_margin(kappa=50.0)"
