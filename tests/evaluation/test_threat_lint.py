"""Each rule finds its mistake, alone, and a sound measurement gives no finding."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from protoat.attacks import FFGSM, FGSM, MIM, PGD, AutoAttack, Targeted
from protoat.data import Digits, ImageData, regroup
from protoat.evaluation.statistics import Count
from protoat.evaluation.threat_lint import lint
from protoat.models import MeanLogits
from protoat.threats import L1, L2, Linf, ThreatModel
from protoat.types import Output

from .cheats import THREAT, BatchStatistics, Noisy, Quantised, Saturated, build, sound, trained

ATTACKS = {"clean": None, "fgsm": FGSM(THREAT), "ffgsm": FFGSM(THREAT), "mim10": MIM(THREAT), "pgd10": PGD(THREAT)}


@pytest.fixture(scope="module")
def data() -> ImageData:
    return Digits().load("test")


def codes(model: nn.Module, data: ImageData | tuple[Tensor, Tensor], threat: ThreatModel = THREAT, **options) -> list:
    return [found.code for found in lint(model, data, threat, options.pop("attacks", ATTACKS), **options)]


def prepared(model: nn.Module, how: str) -> nn.Module:
    """A model that expects other pixels than those in [0, 1]."""
    undo = {"[-1, 1]": lambda x: (x + 1) / 2, "[0, 255]": lambda x: x / 255, "normalised": lambda x: 0.37 * x + 0.3}[
        how
    ]

    class Prepared(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return model(undo(x))

    return Prepared()


class RootOfZero(nn.Module):
    """Logits as without the root, and gradients of 0 times infinity."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) + (0 * x.flatten(1).sum(1, keepdim=True)).sqrt()


def test_a_sound_measurement_has_no_findings(data: ImageData) -> None:
    for model in (trained(None), sound()):
        assert codes(model, data) == []
        assert codes(lambda x, model=model: Output(model(x), torch.zeros(len(x), 3)), data) == []
    assert codes(trained(None), data, L2(0.5), attacks={"pgd10": PGD(L2(0.5))}) == []


def test_images_outside_the_box(data: ImageData) -> None:
    model, x, y = trained(None), data.images.float() / 255, data.labels
    assert codes(model, (x, y)) == []
    (found,) = [f for f in lint(model, ((x - 0.3) / 0.4, y), THREAT, ATTACKS) if f.code == "pixels"]
    assert found.severity == "error"
    assert "they look normalised; give attacks pixels in [0, 1] and put normalisation inside" in found.text
    (found,) = [f for f in lint(model, (255 * x, y), THREAT, ATTACKS) if f.code == "pixels"]
    assert "8-bit pixels, to be divided by 255" in found.text
    cast = replace(data, images=x.round().to(torch.uint8))
    assert "pixels" in codes(model, cast)


def test_labels_and_targets(data: ImageData) -> None:
    model, x, y = trained(None), data.images.float() / 255, data.labels
    (found,) = [f for f in lint(model, (x, y + 1), THREAT, ATTACKS) if f.code == "labels"]
    assert "labels run from 1 to 10, and the model has 10 classes" in found.text
    targets = (y + 1) % 10
    assert codes(model, (x, y), targets=targets) == []
    targets[:7] = y[:7]
    (found,) = lint(model, (x, y), THREAT, ATTACKS, targets=targets)
    assert found.text.startswith("7 targets equal the true labels")


class Detached(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.detach())


@pytest.mark.parametrize(
    ("builder", "code"),
    [
        (lambda: trained(None, dropout=0.5, epochs=7).train(), "train-mode"),
        (lambda: Noisy(trained(None), 0.1), "random"),
        (lambda: trained(None, BatchStatistics), "batch"),
        (lambda: nn.Sequential(trained(None), nn.Softmax(1)), "probabilities"),
        (lambda: Detached(trained(None)), "no-gradient"),
        (lambda: Quantised(trained(None), 16).eval(), "zero-gradient"),
        (lambda: RootOfZero(trained(None)), "spoilt-gradient"),
        (lambda: Saturated(trained(None), 1000.0), "saturated"),
        (lambda: prepared(trained(None), "[-1, 1]"), "preparation"),
        (lambda: prepared(trained(None), "[0, 255]"), "preparation"),
        (lambda: prepared(trained(None), "normalised"), "preparation"),
        (lambda: build().eval(), "chance"),
    ],
)
def test_models_that_spoil_a_measurement(builder, code: str, data: ImageData) -> None:
    model = builder()
    modes = [module.training for module in model.modules()]
    assert codes(model, data) == [code]
    assert [module.training for module in model.modules()] == modes


def test_the_mean_of_a_random_model_is_only_noted_to_vary(data: ImageData) -> None:
    (found,) = lint(MeanLogits(Noisy(trained(None), 0.1), 5), data, THREAT, ATTACKS)
    assert (found.code, found.severity) == ("random", "note")


def test_a_mean_that_changes_with_the_batch_may_have_another_cause(data: ImageData) -> None:
    (found,) = lint(MeanLogits(trained(None, BatchStatistics), 2), data, THREAT, ATTACKS)
    assert (found.code, found.severity) == ("random", "note")
    assert found.text.endswith("unless the model uses batch statistics")


@pytest.mark.parametrize(("learned", "severity"), [("all", "error"), ("a part", "warning")])
def test_only_a_large_gain_from_other_pixels_is_certain(learned: str, severity: str, data: ImageData) -> None:
    model = prepared(trained(None), "normalised")
    if learned == "a part":
        model = Ignorant(model)
    (found,) = lint(model, data, THREAT, ATTACKS)
    assert (found.code, found.severity) == ("preparation", severity)
    assert ("it may expect that" in found.text) == (severity == "warning")
    assert codes(model, data, pixels_known=True) == []


class Ignorant(nn.Module):
    """Wrong on about a quarter of the images, on whatever scale their pixels come."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        known = x.flatten(1).argmax(1) % 4 > 0
        return torch.where(known[:, None], logits, logits.roll(1, 1))


class RightOn(nn.Module):
    """Right on the first `n` images of two classes, and wrong on the others, on whatever scale their pixels come."""

    def __init__(self, y: Tensor, n: int) -> None:
        super().__init__()
        self.said = torch.where(torch.arange(len(y)) < n, y, 1 - y)

    def forward(self, x: Tensor) -> Tensor:
        return 9 * nn.functional.one_hot(self.said[: len(x)], 2) + 0 * x.flatten(1)[:, :2]


@pytest.mark.parametrize("right", range(13))
def test_sentence_and_interval_agree_about_chance(right: int) -> None:
    y = torch.arange(12) % 2
    x = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    said = [
        found.text for found in lint(RightOn(y, right).eval(), (x, y), Linf(0.01), "clean") if found.code == "chance"
    ]
    low, high = Count(right, 12).interval
    assert bool(said) == (low <= 0.5)
    assert all(f"[{100 * low:.1f}, {100 * high:.1f}] %" in text for text in said)


def test_logits_that_are_not_finite(data: ImageData) -> None:
    class Spoilt(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return trained(None)(x) / torch.zeros(1)

    assert "finite" in codes(Spoilt(), data)


@pytest.mark.parametrize(
    ("threat", "code"),
    [
        (Linf(0.5), "radius"),
        (L2(8), "radius"),
        (L1(60), "radius"),
        (Linf(8 / 255 / 255), "radius"),
        (Linf(0.031), "radius"),
    ],
)
def test_odd_radii(threat: ThreatModel, code: str, data: ImageData) -> None:
    assert codes(trained(None), data, threat, attacks={"pgd10": PGD(threat)}) == [code]


@pytest.mark.parametrize("eps", ["8/255", "4/255", 0.1, 0.3])
def test_usual_radii(eps: float | str, data: ImageData) -> None:
    assert "radius" not in codes(trained(None), data, Linf(eps))


def test_an_l1_radius_has_no_grey_levels(data: ImageData) -> None:
    assert codes(trained(None), data, L1(0.031), attacks={"pgd10": PGD(L1(0.031))}) == []


def test_steps_that_cannot_reach_the_budget(data: ImageData) -> None:
    paper = PGD(Linf(0.3), steps=7, step_size=0.01)
    for attack in (paper, Targeted(paper, "next")):
        (found,) = lint(trained(None), data, Linf(0.3), {"pgd7": attack})
        assert (found.code, found.severity) == ("short-reach", "warning")
        assert "7 steps of 0.01 move no pixel by more than 0.07, and eps is 0.3" in found.text
        assert "2.5 * eps / steps = 0.1071" in found.text
    assert codes(trained(None), data, attacks={"pgd": PGD(THREAT, step_size=0.41)}) == ["long-step"]


def test_few_classes_are_noted(data: ImageData) -> None:
    model = nn.Sequential(trained(None), nn.Linear(10, 2, bias=False)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.arange(10).ge(5).eq(torch.arange(2)[:, None]).float())
    two = regroup(data, 2)
    notes = lint(model, two, THREAT, {"aa": AutoAttack(THREAT)})
    assert [(found.code, found.severity) for found in notes] == [("two-classes", "note"), ("autoattack", "note")]
    assert "aa-k2" in notes[1].text
    assert codes(trained(None), data, attacks={"aa": AutoAttack(THREAT)}) == []


def test_no_images_are_refused(data: ImageData) -> None:
    with pytest.raises(ValueError, match="no images"):
        lint(trained(None), data.subset(torch.zeros(0, dtype=torch.int64)), THREAT, ATTACKS)
