"""What every attack must hold. Attacks are found by class: one that a threat model cannot build fails here."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from inspect import signature
from itertools import cycle
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import protoat.attacks
from protoat.attacks import (
    APGD,
    FFGSM,
    PGD,
    SPSA,
    Attack,
    AutoAttack,
    CarliniWagnerL0,
    CarliniWagnerL2,
    CarliniWagnerLinf,
    FastEnsemble,
    Square,
    Targeted,
    Transfer,
    UniformNoise,
)
from protoat.threats import L1, L2, Linf, ThreatModel
from protoat.types import as_output

from . import parts

LINF, SMALL = Linf(0.25), Linf(0.05)
THREATS = {"linf": LINF, "l2": L2(1.5), "l1": L1(6)}
# Attacks that need more than a threat model to be built.
ROWS: dict[type[Attack], Callable[[ThreatModel], Attack]] = {
    Targeted: lambda threat: Targeted(PGD(threat, steps=3), "random"),
    Transfer: lambda threat: Transfer(PGD(threat, steps=3), parts.trained()[0], name="itself"),
}
# Searches too long for a test, made short; everything else is as it comes.
SHORT = {"steps": 3, "queries": 20, "search_steps": 2, "draws": 5, "escalate": False}
# Adam in the tanh space covers no ground in three steps of its usual length.
TIGHTENING = {"steps": 5, "initial_const": 4.0, "largest_const": 8.0, "learning_rate": 0.5}
LONGER: dict[type[Attack], dict[str, Any]] = {
    CarliniWagnerL0: TIGHTENING,
    CarliniWagnerL2: {"steps": 10, "search_steps": 2, "initial_const": 1.0, "learning_rate": 0.3},
    CarliniWagnerLinf: TIGHTENING,
    SPSA: {"steps": 8, "pairs": 8, "learning_rate": 0.1},
}
# Searches the nearest image in this norm whatever the budget's.
NATURAL: dict[type[Attack], ThreatModel] = {CarliniWagnerL0: L2(3), CarliniWagnerL2: L2(3)}
# Where the published algorithm itself leaves the range on its way.
BEYOND_THE_RANGE: tuple[type[Attack], ...] = (FFGSM,)
# Random search is too weak to promise a fall of accuracy in so few draws.
WEAK = ("UniformNoise",)
# The first run of FAB draws nothing, and a later one shows only where it finds something nearer.
SELDOM_RANDOM = ("FAB", "FABT")
WITHOUT_GRADIENTS = ("CornerNoise", "SPSA", "Square", "UniformNoise")
ATTACKS = parts.concrete(Attack, protoat.attacks)

each = pytest.mark.parametrize("kind", ATTACKS, ids=lambda kind: kind.__name__)
each_threat = pytest.mark.parametrize("threat", THREATS.values(), ids=THREATS.keys())
# Attacks leave geometry to the norm: what is not about the ball is tried with one norm for each attack.
each_with_a_threat = pytest.mark.parametrize(
    ("kind", "threat"),
    [pytest.param(kind, THREATS[norm], id=f"{kind.__name__}-{norm}") for kind, norm in zip(ATTACKS, cycle(THREATS))],
)


def build(kind: type[Attack], threat: ThreatModel = LINF, **options: Any) -> Attack:
    if kind in ROWS:
        return ROWS[kind](threat)
    known = signature(kind).parameters
    chosen = SHORT | LONGER.get(kind, {}) | options
    attack = kind(threat, **{key: value for key, value in chosen.items() if key in known})
    if isinstance(attack, AutoAttack | FastEnsemble):
        long = attack.parts
        attack.parts = lambda classes: {name: shorten(part) for name, part in long(classes).items()}  # type: ignore[method-assign]
    return attack


@pytest.mark.parametrize("kind", [kind for kind in ATTACKS if kind not in ROWS], ids=lambda kind: kind.__name__)
def test_a_radius_alone_is_no_threat_model(kind: Any) -> None:
    with pytest.raises(TypeError, match=r"takes a threat model, and 0\.25 is of type float; write protoat\.Linf\("):
        kind(0.25)


@pytest.mark.parametrize("kind", [kind for kind in ATTACKS if kind not in ROWS], ids=lambda kind: kind.__name__)
def test_habits_of_torchattacks_are_answered_with_the_right_call(kind: Any) -> None:
    network, (x, y) = parts.trained()[0], parts.trained()[1:]
    for given in ((network,), (network, 8 / 255), (lambda x: x,)):
        with pytest.raises(TypeError, match=rf"write attack = pa\.{kind.__name__}\(pa\.Linf\(8/255\)"):
            kind(*given, **({} if len(given) > 1 else {"eps": 8 / 255}))
    with pytest.raises(TypeError, match=r"then attack\(model, x, y\)\.x_adv$"):
        kind(LINF, eps=0.1, alpha=0.01)
    for call in (build(kind), build(kind).perturb):
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'y'"):
            call(x, y)
        with pytest.raises(TypeError, match="the model is a Tensor, expected"):
            call(x, y, y)


def shorten(attack: Attack) -> Attack:
    for key, value in SHORT.items():
        if hasattr(attack, key):
            setattr(attack, key, value)
    return attack


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


@torch.no_grad()
def predicted(model: nn.Module, x: Tensor) -> Tensor:
    return as_output(model(x)).logits.argmax(1)


def legal(x_adv: Tensor, x: Tensor, eps: float | Tensor, threat: ThreatModel) -> bool:
    near = bool((threat.geometry.distance(x_adv, x) <= eps + 1e-6).all())
    return near and bool(x_adv.min() >= 0) and bool(x_adv.max() <= 1) and x_adv.shape == x.shape


def test_some_are_found() -> None:
    assert {PGD, UniformNoise, AutoAttack, Targeted} <= set(ATTACKS)


@each
def test_the_threat_model_is_enough_and_the_record_is_json(kind: type[Attack]) -> None:
    attack = ROWS[kind](LINF) if kind in ROWS else kind(LINF)
    record = json.loads(json.dumps(attack.parameters()))
    assert record["attack"] == kind.__name__
    innermost = record.get("of", record)
    assert (innermost["norm"], innermost["eps"]) == ("linf", LINF.eps)


@each
@each_threat
def test_images_keep_to_the_budget_and_the_range(kind: type[Attack], threat: ThreatModel) -> None:
    """And those that the model is shown to the range."""
    model, x, y = parts.trained()
    x[0], x[1] = 0.0, 1.0
    shown: list[Tensor] = []
    model.register_forward_pre_hook(lambda _, given: shown.append(torch.stack(given[0].detach().aminmax())))
    attack = Transfer(PGD(threat, steps=3), model, name="itself") if kind is Transfer else build(kind, threat)
    x_adv = attack.perturb(model, x, y, generator=seed(0))
    assert legal(x_adv, x, threat.eps, threat)
    assert not x_adv.requires_grad and x_adv.dtype == x.dtype
    assert not torch.equal(x_adv, x)
    low, high = float(torch.stack(shown).min()), float(torch.stack(shown).max())
    within = low >= -1e-6 and high <= 1 + 1e-6
    assert within == (kind not in BEYOND_THE_RANGE), (low, high)


@each
@each_threat
def test_each_image_keeps_to_its_own_radius(kind: type[Attack], threat: ThreatModel) -> None:
    model, x, y = parts.trained()
    eps = torch.linspace(0, threat.eps, len(x))
    x_adv = build(kind, threat).perturb(model, x, y, eps=eps, generator=seed(0))
    assert legal(x_adv, x, eps, threat)
    assert torch.equal(x_adv[0], x[0])
    reach = threat.geometry.distance(x_adv, x)
    assert bool(reach.max() > threat.eps / 4), "the larger radii are not used"


@each
def test_the_same_seed_gives_the_same_images(kind: type[Attack]) -> None:
    model, x, y = parts.trained()
    attack = build(kind)
    run = partial(attack.perturb, model, x, y)
    torch.manual_seed(1)
    first, own = run(generator=seed(3)), run()
    torch.manual_seed(2)
    assert torch.equal(first, run(generator=seed(3)))
    assert torch.equal(own, run())
    assert torch.equal(own, build(kind).perturb(model, x, y))


@each
def test_another_generator_gives_other_images_if_the_attack_is_random(kind: type[Attack]) -> None:
    if kind.__name__ in SELDOM_RANDOM or (kind not in ROWS and "seed" not in signature(kind).parameters):
        pytest.skip("draws nothing that must show")
    model, x, y = parts.trained()
    attack = build(kind, SMALL, restarts=2)
    first, second = (attack.perturb(model, x, y, generator=seed(number)) for number in (1, 2))
    assert not torch.equal(first, second)


class Stop(Exception):  # noqa: N818 - it is no error
    pass


@each
@pytest.mark.parametrize("fails_at", [None, 1, 2])
@pytest.mark.parametrize("bn", ["eval", "train_frozen"])
def test_nothing_is_left_changed_also_when_the_model_raises(kind: type[Attack], fails_at: int | None, bn: str) -> None:
    if bn != "eval" and (kind in ROWS or "bn" not in signature(kind).parameters):
        pytest.skip("has no choice of batch norm")
    model, x, y = parts.trained()
    model.train()
    model.features[1].eval()
    model.features[3].weight.requires_grad_(False)
    model(x).logits.sum().backward()
    calls = []

    def count(*_: object) -> None:
        calls.append(1)
        if len(calls) == fails_at:
            raise Stop

    model.register_forward_pre_hook(count)
    attack = build(kind, bn=bn)
    images, labels, before = x.clone(), y.clone(), parts.world(model)
    try:
        attack(model, x, y, generator=seed(0))
        assert fails_at is None or len(calls) < fails_at
    except Stop:
        assert fails_at is not None
    assert parts.differences(before, parts.world(model)) == []
    assert torch.equal(x, images) and torch.equal(y, labels) and not x.requires_grad and torch.is_grad_enabled()


@each
@pytest.mark.filterwarnings("ignore:random.*:RuntimeWarning")
def test_a_model_that_draws_random_numbers_does_not_move_the_global_state(kind: type[Attack]) -> None:
    class Noisy(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor) -> Any:
            return self.network(x + 0.05 * torch.randn_like(x))

    model, x, y = parts.trained()
    noisy, attack = Noisy(model).eval(), build(kind)
    results = []
    for number in (1, 2):
        torch.manual_seed(number)
        before = torch.get_rng_state()
        results.append(attack(noisy, x, y, generator=seed(0)).x_adv)
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*results)


@each_with_a_threat
def test_two_classes(kind: type[Attack], threat: ThreatModel) -> None:
    model, x, y = parts.trained(classes=2)
    attack = build(kind, threat)
    if kind is Transfer:
        attack = Transfer(PGD(threat, steps=3), parts.trained(classes=2)[0], name="itself")
    result = attack(model, x, y)
    assert legal(result.x_adv, x, threat.eps, threat)
    if attack.can_target:
        towards = attack(model, x, y, targets=1 - y)
        assert torch.equal(towards.success, ~towards.correct)


@each
def test_accuracy_falls(kind: type[Attack]) -> None:
    model, x, y = parts.trained(count=48)
    clean = (predicted(model, x) == y).float().mean()
    attack = build(kind, NATURAL.get(kind, LINF), steps=40, queries=300, draws=50, gamma=1.0)
    attacked = attack(model, x, y).correct.float().mean()
    assert clean > 0.8
    assert attacked <= clean if kind.__name__ in WEAK else attacked < clean - 0.1


@each
def test_success_is_judged_by_the_model_and_not_by_the_attack(kind: type[Attack]) -> None:
    model, x, y = parts.trained()
    attack = build(kind)
    result = attack(model, x, y)
    assert torch.equal(result.correct, predicted(model, result.x_adv) == y)
    assert torch.equal(result.success, ~result.correct)
    targets = (y + 1) % 4
    if attack.can_target:
        result = attack(model, x, y, targets=targets)
        assert torch.equal(result.success, predicted(model, result.x_adv) == targets)
        assert torch.equal(result.correct, predicted(model, result.x_adv) == y)
    else:
        with pytest.raises(ValueError, match=f"{kind.__name__} has no targeted form"):
            attack(model, x, y, targets=targets)


@each
def test_targets_draw_images_towards_them(kind: type[Attack]) -> None:
    if not build(kind).can_target or kind.__name__ in WEAK:
        pytest.skip("has no targeted form, or promises nothing")
    model, x, y = parts.trained(count=24)
    targets = (y + 1) % 4
    result = build(kind, NATURAL.get(kind, Linf(0.4)))(model, x, y, targets=targets)
    assert int(result.success.sum()) > int((predicted(model, x) == targets).sum())


@each_with_a_threat
def test_float64(kind: type[Attack], threat: ThreatModel) -> None:
    model, x, y = parts.trained(count=6)
    model, x = model.double(), x.double()
    attack = Transfer(PGD(threat, steps=3), model, name="itself") if kind is Transfer else build(kind, threat)
    x_adv = attack.perturb(model, x, y)
    assert legal(x_adv, x, threat.eps, threat)
    assert x_adv.dtype == torch.float64


@each
def test_bfloat16_autocast(kind: type[Attack]) -> None:
    model, x, y = parts.trained()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = build(kind)(model, x, y)
    assert legal(result.x_adv, x, LINF.eps, LINF)
    assert result.x_adv.dtype == torch.float32


@each
def test_plain_logits_and_channels_last_change_nothing(kind: type[Attack]) -> None:
    model, x, y = parts.trained()
    attack = build(kind)
    expected = attack(model, x, y)
    plain = attack(parts.Logits(model), x, y)
    if kind.__name__ != "EmbeddingDisplacement":  # which then has logits only to displace
        assert torch.equal(plain.x_adv, expected.x_adv)
    assert legal(plain.x_adv, x, LINF.eps, LINF)
    last = attack(model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last), y)
    assert legal(last.x_adv, x, LINF.eps, LINF)


@each_with_a_threat
def test_the_memory_format_of_the_images_changes_no_draw(kind: type[Attack], threat: ThreatModel) -> None:
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(3 * 36, 4)), torch.rand(6, 3, 6, 6)
    y = predicted(model, x)
    attack = Transfer(PGD(threat, steps=3), model, name="itself") if kind is Transfer else build(kind, threat)
    expected, last = (
        attack.perturb(model, images, y, eps=threat.eps / 10, generator=seed(0))
        for images in (x, x.contiguous(memory_format=torch.channels_last))
    )
    torch.testing.assert_close(last, expected, rtol=0, atol=1e-6)


@each
def test_works_inside_inference_mode(kind: type[Attack]) -> None:
    model, x, y = parts.trained()
    attack = build(kind)
    expected = attack(model, x, y)
    with torch.inference_mode():
        result = attack(model, x.clone(), y.clone())
    assert torch.equal(result.x_adv, expected.x_adv)
    assert torch.equal(result.correct, expected.correct)


@each
def test_no_images_are_no_trouble(kind: type[Attack]) -> None:
    model, x, y = parts.trained()
    result = build(kind)(model, x[:0], y[:0])
    assert result.x_adv.shape == x[:0].shape
    assert result.success.shape == result.correct.shape == (0,)


@each
def test_a_single_image(kind: type[Attack]) -> None:
    model, x, y = parts.trained()
    assert legal(build(kind)(model, x[:1], y[:1]).x_adv, x[:1], LINF.eps, LINF)


@each
@pytest.mark.filterwarnings("ignore:.*not finite:RuntimeWarning")
def test_a_broken_model_breaks_no_budget(kind: type[Attack]) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.flatten(1)[:, :4] * float("nan")).nan_to_num(float("nan"))

    _, x, y = parts.trained()
    if kind is Transfer:
        attack: Attack = Transfer(PGD(LINF, steps=3), Broken(), name="itself")
    else:
        attack = build(kind)
    assert legal(attack.perturb(Broken(), x, y), x, LINF.eps, LINF)


class Blind(nn.Module):
    """A linear model with a root that is always 0: logits as without it, and gradients of 0 times infinity."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return self.linear(flat) + (0 * flat.sum(1, keepdim=True)).sqrt()


@each
def test_gradients_that_are_no_numbers_are_told_once(kind: type[Attack], recwarn: pytest.WarningsRecorder) -> None:
    x, model = torch.rand(6, 1, 8, 8), Blind()
    y = predicted(model, x)
    attack = Transfer(PGD(LINF, steps=3), model, name="itself") if kind is Transfer else build(kind)
    attack.perturb(model, x, y)
    told = [str(warning.message) for warning in recwarn]
    assert len(told) == (kind.__name__ not in WITHOUT_GRADIENTS)
    assert all(
        re.match(r"spoilt-gradient: \d+ of the \d+ gradients .* are not finite.*overstates robustness", text)
        for text in told
    )


@each_threat
@pytest.mark.filterwarnings("ignore:.*not finite:RuntimeWarning")
def test_gradients_that_are_no_numbers_make_no_attack_weaker_than_its_parts(threat: ThreatModel) -> None:
    model, x = Blind(), torch.rand(40, 1, 8, 8)
    y = predicted(model, x)
    threat = replace(threat, eps=threat.eps / 5)
    square = Square(threat, queries=200)
    whole = AutoAttack(threat)
    whole.parts = lambda _: {"apgd-ce": APGD(threat, steps=3), "square": square}  # type: ignore[method-assign]
    left = int(square(model, x, y).correct.sum())
    assert left < 30
    assert int(whole(model, x, y).correct.sum()) <= left + 2


class TestMistakes:
    """Refused by the base class, so one attack stands for all."""

    attack: ClassVar[Attack] = PGD(LINF, steps=2)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda x, y: ((255 * x).to(torch.uint8), y), "images are torch.uint8.*divide"),
            (lambda x, y: (x.half(), y), "images are torch.float16.*give float32 and convert inside the model"),
            (lambda x, y: (x.bfloat16(), y), "images are torch.bfloat16"),
            (lambda x, y: (255 * x, y), r"images lie in \[0, 255\], expected \[0, 1\]"),
            (lambda x, y: (x - 0.01, y), r"images lie in \[-0.01"),
            (lambda x, y: (x.index_fill(0, torch.tensor([1]), float("nan")), y), "nan"),
            (lambda x, y: (x, y[:-1]), "labels are torch.int64 of shape"),
            (lambda x, y: (x, y.float()), "labels are torch.float32"),
            (lambda x, y: (x, torch.full_like(y, 4)), "labels run from 4 to 4, and the model has 4 classes"),
            (lambda x, y: (x, y - 9), "labels run from -9"),
        ],
    )
    def test_images_and_labels(self, change: Callable[..., tuple[Tensor, Tensor]], message: str) -> None:
        model, x, y = parts.trained()
        with pytest.raises(ValueError, match=message):
            self.attack.perturb(model, *change(x, y))

    @pytest.mark.parametrize(
        ("eps", "message"),
        [(-0.1, "eps"), (float("nan"), "eps"), (torch.full((3,), 0.1), "eps"), (torch.full((12,), -0.1), "eps")],
    )
    def test_radii(self, eps: float | Tensor, message: str) -> None:
        model, x, y = parts.trained()
        with pytest.raises(ValueError, match=message):
            self.attack.perturb(model, x, y, eps=eps)

    def test_a_radius_as_precise_as_it_comes(self) -> None:
        model, x, y = parts.trained()
        eps = torch.full((12,), 0.1)
        assert torch.equal(
            self.attack.perturb(model, x, y, eps=eps.double()), self.attack.perturb(model, x, y, eps=eps)
        )

    def test_targets(self) -> None:
        model, x, y = parts.trained()
        with pytest.raises(ValueError, match="some targets equal the true labels"):
            self.attack.perturb(model, x, y, targets=y)
        with pytest.raises(ValueError, match="targets run from 7 to 7, and the model has 4 classes"):
            self.attack.perturb(model, x, y, targets=torch.full_like(y, 7))

    def test_batch_norm(self) -> None:
        with pytest.raises(ValueError, match="bn='running' is unknown"):
            PGD(LINF, bn="running")  # type: ignore[arg-type]

    def test_rounding_errors_are_none(self) -> None:
        model, x, y = parts.trained()
        x[0, 0, 0, 0], x[0, 0, 0, 1] = -2.98e-8, 1 + 1.2e-7
        x_adv = self.attack.perturb(model, x, y)
        assert float(x_adv.min()) >= 0 and float(x_adv.max()) <= 1
