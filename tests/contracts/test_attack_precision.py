"""What holds of attacks and methods holds with passes in bfloat16 too: their contracts, run again."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from protoat.attacks import APGD, APGDT, FAB, FABT, MALT, PGD, PMA, Attack, AutoAttack, Square, Targeted, Transfer
from protoat.attacks.precision import attacks_in, faster_precision, present_precision
from protoat.methods import AWP, Method
from protoat.pretraining import ACL, RoCL
from protoat.threats import Linf

from . import parts
from . import test_attack_contract as of_attacks
from . import test_method_contract as of_methods

each_attack = pytest.mark.parametrize("kind", of_attacks.ATTACKS, ids=lambda kind: kind.__name__)
each_method = pytest.mark.parametrize("kind", of_methods.METHODS, ids=lambda kind: kind.__name__)
THREAT = Linf(0.1)


@pytest.fixture
def half() -> Iterator[None]:
    with attacks_in("bf16"):
        yield


@each_attack
@pytest.mark.usefixtures("half")
def test_attacks(kind: type[Attack]) -> None:
    of_attacks.test_the_same_seed_gives_the_same_images(kind)
    of_attacks.test_accuracy_falls(kind)
    of_attacks.test_success_is_judged_by_the_model_and_not_by_the_attack(kind)
    for threat in of_attacks.THREATS.values():
        of_attacks.test_images_keep_to_the_budget_and_the_range(kind, threat)


@each_method
@pytest.mark.usefixtures("half")
def test_methods(kind: type[Method]) -> None:
    of_methods.test_gradients_reach_model_and_regularizer(kind, None)
    of_methods.test_an_interrupted_run_goes_on_exactly(kind, None)
    of_methods.test_the_radius_grows_as_the_ramp_says(kind)
    for threat in of_methods.THREATS.values():
        of_methods.test_images_keep_to_the_budget_and_the_range(kind, threat)


class Noting(nn.Module):
    """Notes the type its layers compute in, for images with and without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.net = parts.trained()[0]
        self.seen: list[tuple[bool, torch.dtype]] = []

    def forward(self, x: Tensor) -> Tensor:
        logits = self.net(x).logits
        self.seen.append((x.requires_grad, logits.dtype))
        return logits

    def types(self, gradient: bool) -> list[torch.dtype]:
        return [dtype for wants, dtype in self.seen if wants == gradient]


def run(attack: Attack) -> Noting:
    model, (_, x, y) = Noting().eval(), parts.trained()
    x_adv = attack.craft(model, x, y)
    assert x_adv.dtype == torch.float32
    return model


def test_all_passes_are_float32_unless_asked() -> None:
    assert present_precision() == "fp32"
    assert {dtype for _, dtype in run(PGD(THREAT, steps=4)).seen} == {torch.float32}


ALONG_GRADIENTS = {"PGD", "BIM", "MIM", "FGSM", "FFGSM", "RFGSM"}
WITH_COARSE_RUNS = {"APGD", "APGDT", "AutoAttack", "FAB", "FABT", "FastEnsemble", "MALT", "PMA", "Square"}


@each_attack
@pytest.mark.parametrize("exact_end", [False, True])
def test_only_attacks_that_use_gradients_alone_or_confirm_what_they_find_pass_in_bfloat16(
    kind: type[Attack], exact_end: bool
) -> None:
    attack = of_attacks.build(kind, THREAT)
    with attacks_in("bf16", exact_end=exact_end):
        seen = {dtype for _, dtype in run(attack).seen}
        assert present_precision() == "bf16"
    assert present_precision() == "fp32"
    assert (torch.bfloat16 in seen) == (
        (kind.__name__ in ALONG_GRADIENTS and (not exact_end or (hasattr(attack, "steps") and attack.steps > 1)))
        or (kind.__name__ in WITH_COARSE_RUNS and exact_end)
    )


def test_in_training_every_pass_is_bfloat16() -> None:
    with attacks_in("bf16"):
        assert run(PGD(THREAT, steps=4)).types(True) == [torch.bfloat16] * 4


def test_where_results_are_judged_the_last_quarter_and_every_judgement_are_float32() -> None:
    model, x, y = Noting().eval(), *parts.trained()[1:]
    with attacks_in("bf16", exact_end=True):
        assert run(PGD(THREAT, steps=8)).types(True) == [*[torch.bfloat16] * 6, *[torch.float32] * 2]
        PGD(THREAT, steps=4)(model, x, y)
        assert model.seen[-1][1] == torch.float32


@pytest.mark.parametrize("attack", [APGD(THREAT, steps=8), PMA(THREAT, steps=8)], ids=["apgd", "pma"])
def test_runs_confirm_in_float32_and_end_in_it(attack: Attack) -> None:
    with attacks_in("bf16", exact_end=True):
        model = run(attack)
    assert model.types(False).count(torch.bfloat16) == 1  # the look at what it resolves
    assert model.types(True)[:6] == [torch.bfloat16] * 6
    assert set(model.types(True)[6:]) == {torch.float32}
    confirmed = [before for before, after in pairwise(model.seen) if before[0] and not after[0]]
    assert (True, torch.bfloat16) in confirmed


@pytest.mark.parametrize("kind", [APGD, APGDT, FAB, FABT, MALT, PMA])
def test_no_success_in_bfloat16_passes_for_one(kind: type[APGD], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where bfloat16 finds every image adversarial and float32 none, no image leaves the batch."""

    class Contrary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = parts.trained()[0]
            self.sizes: list[int] = []

        def forward(self, x: Tensor) -> Tensor:
            self.sizes.append(len(x))
            logits = self.net(x).logits
            return -logits if logits.dtype == torch.bfloat16 else logits

    monkeypatch.setattr("protoat.attacks.attacked_model.AttackedModel.resolves", lambda self, images: True)
    model, (_, x, y) = Contrary().eval(), parts.trained()
    right = int((model(x).argmax(1) == y).sum())
    with attacks_in("bf16", exact_end=True):
        kind(Linf(1e-6), steps=8).craft(model, x, y)
    assert min(model.sizes[2:]) == right


def test_square_screens_all_queries_but_the_last_quarter() -> None:
    with attacks_in("bf16", exact_end=True):
        types = [dtype for _, dtype in run(Square(Linf(0.02), queries=40)).seen]
    last = len(types) - types[::-1].index(torch.bfloat16)
    assert 20 < types.count(torch.bfloat16) <= 32  # two looks, and 30 queries but for those that change nothing
    assert 5 <= len(types) - last <= 12


def test_only_float32_accepts_a_query(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every query is better in bfloat16 and worse in float32, images stay where they began."""

    class Contrary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = parts.trained()[0]
            self.turn = 0

        def forward(self, x: Tensor) -> Tensor:
            logits = self.net(x).logits
            self.turn += 1
            best = nn.functional.one_hot(logits.argmax(1), logits.shape[1])
            return logits.float() + best * self.turn * (-1e-3 if logits.dtype == torch.bfloat16 else 1e-3)

    monkeypatch.setattr("protoat.attacks.attacked_model.AttackedModel.resolves", lambda self, images: True)
    (_, x, y), attack = parts.trained(), Square(Linf(1e-6), queries=40)
    start = attack.craft(Contrary().eval(), x, y)
    with attacks_in("bf16", exact_end=True):
        assert torch.equal(attack.craft(Contrary().eval(), x, y), start)


COARSE = [PGD(THREAT), *(kind(THREAT, steps=8) for kind in (APGD, APGDT, FAB, FABT, MALT, PMA))]
COARSE.append(of_attacks.build(AutoAttack, THREAT))


@pytest.mark.parametrize("attack", [*COARSE, Square(THREAT, queries=40)], ids=lambda attack: type(attack).__name__)
def test_all_is_float32_where_bfloat16_does_not_resolve_the_logits(attack: Attack) -> None:
    class Lifted(Noting):
        def forward(self, x: Tensor) -> Tensor:
            return (super().forward(x) + 10_000).to(self.seen[-1][1])

    (_, x, y), model = parts.trained(count=8), Lifted().eval()
    exact = attack.craft(model, x, y)
    assert {dtype for _, dtype in model.seen} == {torch.float32}
    model.seen.clear()
    with attacks_in("bf16", exact_end=True):
        assert torch.equal(attack.craft(model, x, y), exact)
    assert {dtype for wants, dtype in model.seen if wants} <= {torch.float32}
    assert torch.bfloat16 in {dtype for _, dtype in model.seen}  # the look at what it resolves


def test_fab_ends_with_half_of_its_steps_in_float32() -> None:
    with attacks_in("bf16", exact_end=True):
        model = run(FAB(THREAT, steps=8))
    assert model.types(False).count(torch.bfloat16) == 1  # the look at what it resolves
    assert model.types(True) == [*[torch.bfloat16] * 4, *[torch.float32] * 4]


def test_a_model_that_draws_random_numbers_is_resolved() -> None:
    """Both looks draw the same, so their difference is that of the precision."""

    class Noisy(Noting):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + 0.1 * torch.randn_like(x))

    (_, x, y), model = parts.trained(), Noisy().eval()
    with attacks_in("bf16", exact_end=True):
        APGD(THREAT, steps=8).craft(model, x, y)
    assert torch.bfloat16 in model.types(True)


def test_float64_is_not_screened() -> None:
    (_, x, y), model, attack = parts.trained(), Noting().double().eval(), Square(Linf(0.02), queries=40)
    exact = attack.craft(model, x.double(), y)
    passes = len(model.seen)
    with attacks_in("bf16", exact_end=True):
        assert torch.equal(attack.craft(model, x.double(), y), exact)
    assert len(model.seen) <= 2 * passes + 2  # one look more


def test_search_in_training_is_float32() -> None:
    with attacks_in("bf16"):
        assert {dtype for _, dtype in run(Square(THREAT, queries=20)).seen} == {torch.float32}


def test_restarts_and_surrogates_are_float32() -> None:
    surrogate = Noting().eval()
    with attacks_in("bf16"):
        assert {dtype for _, dtype in run(PGD(Linf(0.001), steps=8, restarts=2)).seen} == {torch.float32}
        run(Transfer(PGD(THREAT, steps=4), surrogate, name="itself"))
        run(Targeted(PGD(THREAT, steps=4), "next"))
    assert [dtype for _, dtype in surrogate.seen] == [torch.float32] * 4


@pytest.mark.parametrize("kind", [ACL, RoCL])
def test_pre_training_too(kind: type[ACL] | type[RoCL]) -> None:
    seen = []
    model = parts.trained()[0].train()
    model.embedding_dim = 128
    method = kind(THREAT, steps=2)
    method.prepare(model)
    layer = model.features[0]
    layer.register_forward_hook(lambda module, given, output: seen.append((module.training, output.dtype)))
    with attacks_in("bf16"):
        next(iter(method.updates(method.encoder(model), *of_methods.batch())))
    assert {dtype for training, dtype in seen if training} == {torch.float32}
    assert torch.bfloat16 in {dtype for training, dtype in seen if not training}


def test_weights_learn_in_float32_around_it() -> None:
    seen = []
    model = parts.trained()[0].train()
    model.features[0].register_forward_hook(lambda module, given, output: seen.append((module.training, output.dtype)))
    with attacks_in("bf16"):
        next(iter(AWP(THREAT).updates(model, *of_methods.batch())))
    assert {dtype for training, dtype in seen if training} == {torch.float32}
    assert {dtype for training, dtype in seen if not training} == {torch.bfloat16}


def test_most_signs_agree() -> None:
    """The images of one step differ in few pixels, and not at all in the arithmetic around the passes."""
    model, x, y = parts.trained(count=60)
    attack = PGD(THREAT, steps=1, random_start=False)
    exact = attack.craft(model, x, y)
    with attacks_in("bf16"):
        coarse = attack.craft(model, x, y)
    assert not torch.equal(exact, coarse)
    assert float((exact == coarse).float().mean()) > 0.9
    assert set(((coarse - x).abs() * 10).round(decimals=3).unique().tolist()) <= set(
        ((exact - x).abs() * 10).round(decimals=3).unique().tolist()
    ) | {1.0, 0.0}


def test_double_precision_stays() -> None:
    model, x, y = parts.trained()
    attack, model = PGD(THREAT, steps=3), model.double()
    exact = attack.craft(model, x.double(), y)
    with attacks_in("bf16"):
        assert torch.equal(attack.craft(model, x.double(), y), exact)


@pytest.mark.parametrize(("bf16", "chosen"), [(0.002, "bf16"), (0.02, "fp32")])
def test_the_faster_one_is_chosen(bf16: float, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def one_pass() -> None:
        nonlocal now
        now += bf16 if present_precision() == "bf16" else 0.01

    monkeypatch.setattr("protoat.attacks.precision.time", SimpleNamespace(perf_counter=lambda: now))
    precision, ratio = faster_precision(one_pass, torch.device("cpu"))
    assert precision == chosen and ratio == pytest.approx(bf16 / 0.01)
