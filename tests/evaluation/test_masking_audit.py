"""The audit passes what is sound and fails each cheat for its own reason; the cheats fall to those who know them."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from protoat.attacks import APGDT, FAB, PGD, Attack, AutoAttack, LeaveOwn, Square, Transfer
from protoat.attacks.examination import NOTHING_FOUND
from protoat.data import Digits, ImageData, regroup
from protoat.evaluation import attack_of_name, evaluate
from protoat.evaluation.masking_audit import CHECKS, AuditReport, Surrogate, audit
from protoat.evaluation.masking_audit.check import judged, not_above, too_many
from protoat.evaluation.masking_audit.context import AuditContext
from protoat.evaluation.masking_audit.report import expected_progress
from protoat.evaluation.record import Evaluation
from protoat.models import MeanLogits
from protoat.runs.run import Run
from protoat.threats import L1, L2, Linf, ThreatModel
from protoat.types import Output

from .cheats import (
    ATTACK,
    THREAT,
    BatchStatistics,
    Noisy,
    Quantised,
    Saturated,
    StraightThrough,
    distilled,
    sound,
    trained,
)

# Those that cost no more than a second on these images.
CHEAP = ["A1", "A3", "A5", "C2", "C4", "C5", "C7", "C12", "C14", "C15", "C16", "C17", "C18", "C20", "C22"]
NEEDY = ["C1", "C6", "C9", "C10", "C11", "C13", "C19", "C21"]


@pytest.fixture(scope="module")
def data() -> ImageData:
    return Digits().load("test")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The most expensive attacks, cut short."""
    short = {"square": "square400", "apgd-t": "apgd-t10", "noise5000": "noise300", "corner5000": "corner300"}
    monkeypatch.setattr(
        "protoat.evaluation.masking_audit.context.attack_of_name",
        lambda name, threat: attack_of_name(short.get(name, name), threat),
    )


def accuracy(model: nn.Module, data: ImageData, attack: Attack) -> float:
    return evaluate(model, data, {"attack": attack}, limit=100)["attack"].accuracy


def test_a_sound_model_passes(data: ImageData) -> None:
    report = audit(sound(), data, THREAT, images=60, only=CHEAP)
    assert report.passed
    assert [check.id for check in report.checks if check.status == "pass"] == CHEAP
    assert report["A1"].figures["images"] == 60


CHEATS: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "random noise": (lambda: Noisy(trained(None), 0.3).eval(), "C15", "change with two forwards: it is random"),
    "quantised input": (lambda: Quantised(trained(None), 3).eval(), "C16", "nor has the margin.* stand-in .*BPDA"),
    "saturated logits": (lambda: Saturated(trained(None), 1000.0).eval(), "C16", "logits are saturated; attack the ma"),
    "distillation": (distilled, "C16", "logits are saturated; attack the margin"),
    "train mode": (lambda: trained(None, dropout=0.5, epochs=7).train(), "C15", "change with its mode: .* train mode"),
    "batch statistics": (lambda: trained(None, BatchStatistics), "C15", "with the rest of the batch: it uses batch"),
}


@pytest.mark.parametrize("name", CHEATS)
def test_each_cheat_fails_for_its_own_reason(name: str, data: ImageData) -> None:
    builder, number, reason = CHEATS[name]
    report = audit(builder(), data, THREAT, images=100, only=["A3", "C4", "C14", "C15", "C16", "C17", "C22"])
    assert not report.passed
    assert report[number].status == "fail"
    assert re.search(reason, report[number].reason), report[number].reason
    if name == "quantised input":  # an attack without limit is led astray as well
        assert {"C4", "C16", "C22"} <= set(report.failed) <= {"A3", "C4", "C16", "C22"}
    if name == "saturated logits":  # attacks climb rescaled logits, so nothing else is fooled
        assert report.failed == ["C16"]
    if name == "train mode":
        assert report.failed == ["C15"]


def test_those_who_know_the_cheats_break_them(data: ImageData) -> None:
    """PGD-20 on cross-entropy is impressed; the attack that fits leaves next to nothing, as of the undefended twin."""
    plain, pgd = trained(None), PGD(THREAT, steps=20)
    assert accuracy(plain, data, pgd) <= 0.03
    noisy, quantised, saturated = (
        CHEATS[name][0]() for name in ("random noise", "quantised input", "saturated logits")
    )
    assert isinstance(quantised, Quantised)
    assert accuracy(quantised, data, pgd) > 0.85
    assert accuracy(quantised, data, Transfer(pgd, StraightThrough(quantised), name="smooth")) <= 0.03
    assert accuracy(quantised, data, Transfer(pgd, plain, name="plain")) <= 0.03
    assert accuracy(saturated, data, pgd) <= 0.03  # it climbs rescaled logits
    assert accuracy(saturated, data, APGDT(THREAT, steps=20)) <= 0.03
    assert accuracy(MeanLogits(noisy, 20), data, pgd) <= 0.03
    for name in ("train mode", "batch statistics"):
        assert accuracy(CHEATS[name][0](), data, APGDT(THREAT, steps=20)) <= 0.1


@pytest.mark.usefixtures("quick")
def test_expensive_checks_tell_gradients_from_guesses(data: ImageData) -> None:
    numbers = ["A2", "A4", "C3", "C8", "C9", "C13"]
    plain = [Surrogate("plain", trained(None), undefended=True)]
    assert audit(sound(), data, THREAT, images=20, only=numbers, surrogates=plain).failed == []
    report = audit(Quantised(trained(None), 3).eval(), data, THREAT, images=20, only=numbers, surrogates=plain)
    assert report.failed == ["A2", "A4", "C8", "C9"]
    assert "transfer:plain 0.0 %: it needs no gradient" in report["A2"].reason


@pytest.mark.slow
def test_a_sound_model_passes_every_check(data: ImageData) -> None:
    model = sound()
    attacks = {"clean": None, "aa": AutoAttack(THREAT)}
    report = audit(
        model,
        data,
        THREAT,
        images=200,
        record=evaluate(model, data, attacks, limit=200).to_json(),
        surrogates=[Surrogate("plain", trained(None), undefended=True)],
        adaptive={"apgd-t": APGDT(THREAT)},
        training=ATTACK.parameters(),
    )
    assert {check.status for check in report.checks} == {"pass"}


def test_every_number_is_there_and_what_is_absent_is_named(data: ImageData) -> None:
    numbers = [check.id for check in CHECKS]
    assert numbers == [f"A{i}" for i in range(1, 6)] + [f"C{i}" for i in range(1, 23)]
    report = audit(sound(), data, THREAT, images=20, only=NEEDY)
    assert not report.passed and report.incomplete == ["C1", "C10", "C11", "C19"]
    assert {check.status for check in report.checks} == {"incomplete", "not run"}
    for number, needed in {
        "C1": "protoat evaluate",
        "C9": "--surrogate RUN",
        "C13": "the method Standard",
        "C21": "adaptive=",
        "C2": "was not asked for",
    }.items():
        assert needed in report[number].reason
    with pytest.raises(ValueError, match="check 'C23' is unknown; write one of A1, A2"):
        audit(sound(), data, THREAT, only=["C23"])


def test_each_attack_runs_once(data: ImageData) -> None:
    told: list[tuple[str, str]] = []
    audit(sound(), data, THREAT, images=20, only=["A1", "A5", "C5", "C7", "C12"], advance=lambda *at: told.append(at))
    names = [attack for _, attack in told]
    assert len(names) == len(set(names))
    assert told[:2] == [("A1", "pgd20"), ("A1", "fgsm")]


def test_radii_grow_with_the_threat_model_and_stay_in_the_box(data: ImageData) -> None:
    def radii(threat: ThreatModel) -> list[str]:
        figures = audit(sound(), data, threat, images=10, only=["A5"])["A5"].figures
        return [name for name in figures if name.startswith("pgd20")]

    assert radii(Linf(0.08)) == [f"pgd20@{r}" if r else "pgd20" for r in (0.01, 0.02, 0.04, 0, 0.16, 0.32, 0.64)]
    assert radii(Linf(0.4)) == ["pgd20@0.05", "pgd20@0.1", "pgd20@0.2", "pgd20", "pgd20@0.8", "pgd20@1"]
    assert radii(L2(2))[-1] == "pgd20@8"


def test_l2_and_two_classes(data: ImageData) -> None:
    two = regroup(data, 2)
    net = nn.Sequential(sound(), nn.Linear(10, 2, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(torch.arange(10).ge(5).eq(torch.arange(2)[:, None]).float())
    numbers = ["A1", "A3", "A5", "C4", "C12", "C14", "C22"]
    assert audit(net.eval(), two, THREAT, images=30, only=numbers).failed == []
    report = audit(sound(), data, L2(1.0), images=30, only=numbers)
    assert report.failed == []
    assert report["A3"].figures["pgd100x5@8"] == 0


@pytest.mark.usefixtures("quick")
def test_l1(data: ImageData) -> None:
    numbers = ["A1", "A2", "A3", "A5", "C4", "C12", "C14", "C20", "C22"]
    told: list[str] = []
    report = audit(sound(), data, L1(1.0), images=30, only=numbers, advance=lambda _, name: told.append(name))
    assert report.failed == []
    assert report["A3"].figures["pgd100x5@64"] == 0  # from black to white in every pixel
    assert "apgd-ce50x5" in told


@pytest.mark.usefixtures("quick")
def test_noise_under_l1_finds_nothing_that_gradients_miss(data: ImageData) -> None:
    """Corners of the ball, which move one pixel by the whole radius, may on images as small as these."""
    found = audit(sound(), data, L1(1.0), images=30, only=["A4"])["A4"]
    assert found.figures["noise5000"] == found.figures["images"] > 10


def record_of(model: nn.Module, data: ImageData, names: dict[str, Attack | None], **changes: Any) -> dict[str, Any]:
    return evaluate(model, data, names, limit=30).to_json() | changes


def test_the_record_is_looked_through(data: ImageData) -> None:
    model, numbers = sound(), ["C1", "C6", "C10", "C11", "C19"]

    def checked(record: dict[str, Any], **options: Any) -> AuditReport:
        return audit(model, data, THREAT, images=50, only=numbers, record=record, **options)

    short = record_of(model, data, {"pgd20": PGD(THREAT, steps=20)})
    assert (checked(short).failed, checked(short).incomplete) == ([], ["C10"])
    assert not checked(short).passed
    assert checked(short)["C10"].figures["missing"] == ["margin or DLR", "minimal norm", "gradient-free"]
    trained_with = checked(short, training=PGD(THREAT, steps=20).parameters())
    assert trained_with.incomplete == ["C10", "C11"]
    assert trained_with["C11"].reason.startswith("0 attacks are neither single-step nor the one of training")
    del short["attacks"]["clean"]
    short["worst_case"]["parameters"]["attacks"] = ["pgd20"]
    assert "C1" in checked(short).incomplete
    every = [PGD(THREAT, steps=20), APGDT(THREAT, steps=5), FAB(THREAT, steps=3), Square(THREAT, queries=20)]
    whole = record_of(model, data, {type(attack).__name__: attack for attack in every})
    assert checked(whole).failed == checked(whole).incomplete == [] and checked(whole).passed
    assert checked(whole)["C1"].figures["images"] == 30
    del whole["attacks"]["PGD"]["parameters"]["seed"]
    assert checked(whole)["C19"].figures["missing"] == {"PGD": ["seed"]}


@pytest.mark.usefixtures("quick")
def test_a_worst_case_that_is_too_good_is_found(data: ImageData) -> None:
    model = sound()
    record = record_of(model, data, {"pgd20": PGD(THREAT, steps=20)})
    record["worst_case"] |= {"outcomes": record["attacks"]["clean"]["outcomes"]}
    report = audit(model, data, THREAT, images=50, only=["C6"], record=record)
    assert report.failed == ["C6"]
    assert report["C6"].figures["wrong"] > 0
    claimed = evaluate(model, data, {"clean": None}, limit=60).to_json()
    claimed["worst_case"] |= {"outcomes": "1" * 60}
    report = audit(model, data, THREAT, images=80, only=["C8"], record=claimed)
    assert "the reported number is too high" in report["C8"].reason
    assert report["C8"].figures["parts"][1]["images"] == 60  # those that both saw


def test_outcomes_of_a_record_belong_to_its_images(data: ImageData) -> None:
    """A record says which images it measured only by how many: they are the first of the same order."""

    class Even(nn.Module):
        """Knows even digits by their images, and calls every other image 0."""

        def forward(self, x: Tensor) -> Tensor:
            same = (data.images.flatten(1).float() / 255 - x.flatten(1)[:, None]).abs().amax(2) < 1e-4
            labels = data.labels[same.int().argmax(1)]
            return nn.functional.one_hot(torch.where(labels % 2 == 0, labels, 0), 10).float() + 0 * x.sum()

    options: dict[str, Any] = {"batch_size": 9, "adaptive": {}, "surrogates": (), "training": None}
    for measured, examined in ((60, 40), (40, 60)):
        record = evaluate(Even(), data, {"clean": None}, limit=measured).to_json()
        lab = AuditContext(
            Even(),
            data,
            THREAT,
            NOTHING_FOUND,
            images=examined,
            record=Evaluation.from_json(record),
            advance=lambda name: None,
            **options,
        )
        assert lab.reported is not None
        known, right = lab.reported
        assert known.sum() == 40
        assert torch.equal(right[known], lab.data.labels[known] % 2 == 0)
        assert not right[~known].any()


def test_attacks_that_know_the_defence(data: ImageData) -> None:
    class Hidden(nn.Module):
        """Rounds its logits, and hands out an embedding that tells the truth."""

        def forward(self, x: Tensor) -> Output:
            logits = trained(None)(x)
            return Output((logits / 4).round(), logits)

    knowing = {"truth": PGD(THREAT, steps=20, loss=LeaveOwn(torch.eye(10)[:, None]))}
    report = audit(Hidden().eval(), data, THREAT, images=50, only=["C21"], adaptive=knowing)
    assert report.failed == ["C21"]
    assert "an attack that knows the defence breaks more" in report["C21"].reason
    assert audit(sound(), data, THREAT, images=50, only=["C21"], adaptive={"apgd-t20": APGDT(THREAT)}).failed == []


def test_a_broken_attack_is_not_taken_for_a_defence(data: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = [Surrogate("plain", trained(None), undefended=True)]
    monkeypatch.setattr(PGD, "run", lambda self, problem: problem.x)
    report = audit(sound(), data, THREAT, images=50, only=["C13", "A3"], surrogates=plain)
    assert report.failed == ["A3", "C13"]
    monkeypatch.setattr(PGD, "perturb", lambda self, model, x, y, **options: (x + 2 * THREAT.eps).clamp(0, 1.5))
    assert audit(sound(), data, THREAT, images=50, only=["C14"]).failed == ["C14"]


def test_a_model_that_cuts_gradients_off(data: ImageData) -> None:
    class Integers(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return trained(None)((3 * x).round().to(torch.uint8) / 3)

    report = audit(Integers().eval(), data, THREAT, images=20)
    assert report.failed == ["C16"]
    assert "no gradient comes back to the image" in report["C16"].reason
    assert "see C16" in report["A1"].reason
    assert report["C15"].status == "pass"


def test_probabilities_are_found(data: ImageData) -> None:
    model = nn.Sequential(trained(None), nn.Softmax(1)).eval()
    assert "C17" in audit(model, data, THREAT, images=50, only=["C17", "C15"]).failed


def test_everything_is_left_as_found(data: ImageData) -> None:
    model = trained(None, dropout=0.5, epochs=7).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    audit(model, data, THREAT, images=20, only=["A1", "C15", "C16", "C20", "C22"])
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_the_same_images_give_the_same_figures(data: ImageData) -> None:
    numbers = ["A1", "C14", "C18", "C20"]
    first, second = (audit(sound(), data, THREAT, images=30, only=numbers).to_json() for _ in range(2))
    for report in (first, second):
        for check in report["checks"]:
            del check["seconds"]
    assert first == second


def test_chance_is_no_failure_and_more_than_chance_is() -> None:
    right = torch.arange(100) < 60
    worse = right & (torch.arange(100) != 0)
    assert not_above(("attack", right), ("reference", right), 1.0, "trouble").status == "pass"
    assert not_above(("attack", right), ("reference", worse), 0.5, "trouble").status == "pass"  # one image: chance
    much_worse = right & (torch.arange(100) > 6)
    found = not_above(("attack", right), ("reference", much_worse), 1.0, "trouble")
    assert (found.status, found.reason) == ("fail", "attack leaves 60.0 %, reference 53.0 %: trouble")
    assert found.figures["only_left_by"] == {"attack": 7, "reference": 0}
    assert not_above(("attack", right), ("reference", much_worse), 8.0, "trouble").status == "pass"
    assert judged(True, "fine", images=3).figures == {"images": 3}
    assert not too_many(0, 10, 0.0)
    assert too_many(1, 10, 0.0)


def test_settings_that_mean_nothing_are_refused(data: ImageData) -> None:
    for options in ({"images": 0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match="must be at least 1"):
            audit(sound(), data, THREAT, **options)
    with pytest.raises(ValueError, match="no images"):
        audit(sound(), data.subset(torch.zeros(0, dtype=torch.int64)), THREAT)


@pytest.mark.parametrize("name", ["digits-2", "mnist-2", "mnist-2-lt", "mnist-2-lt-modes"])
def test_progress_follows_the_time_that_recorded_audits_took(name: str) -> None:
    """Nowhere further off than a sixth of the whole; with checks counted alike it was by over a half."""
    record = Run(f"zoo:{name}").audit
    assert record is not None
    took = sum(check.seconds for check in record.checks)
    before = accumulate((check.seconds / took for check in record.checks), initial=0.0)
    expected = expected_progress(record.images)
    assert max(abs(expected[check.id] - true) for check, true in zip(record.checks, before, strict=False)) < 1 / 6
