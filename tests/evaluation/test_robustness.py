"""`evaluate` against a loop over single images, and what it must leave alone."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

from protoat.attacks import FGSM, PGD
from protoat.data import ImageData
from protoat.evaluation import Count, evaluate
from protoat.types import Linf, Output

NAMES = ("left", "right")
MODES = ("left/dark", "left/light", "right/dark", "right/light", "right/none")


class Halves(nn.Module):
    """Class 1 where the right half is brighter; batch norm and dropout to trip over."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Output:
        x = self.drop(self.norm(x))
        sums = torch.stack([x[..., :2].sum((1, 2, 3)), x[..., 2:].sum((1, 2, 3))], dim=1)
        return Output(sums, sums)


@pytest.fixture
def data() -> ImageData:
    """Sixty images, sorted by mode as a folder gives them; a third are hard, none is of the last mode."""
    modes = torch.arange(4).repeat_interleave(15)
    labels = modes // 2
    images = torch.full((60, 1, 4, 4), 100, dtype=torch.uint8)
    for i, label in enumerate(labels.tolist()):
        bright = 101 if i % 3 == 0 else 140
        images[i, :, :, 2 * label : 2 * label + 2] = bright + 30 * (i % 2)
    return ImageData(images, labels, NAMES, modes, MODES)


def test_counts_equal_a_loop_over_images(data: ImageData) -> None:
    model = Halves().eval()
    attack = FGSM(Linf("12/255"))
    report = evaluate(model, data, {"clean": None, "fgsm": attack}, batch_size=7)
    for name in ("clean", "fgsm"):
        right = []
        for i in range(len(data)):
            x, y = data.images[i : i + 1].float() / 255, data.labels[i : i + 1]
            if name == "fgsm":
                x = attack.perturb(model, x, y)
            right.append(int(model(x).logits.argmax()) == int(y))
        found = report[name]
        assert found.correct_mask.tolist() == right
        assert found.count == (sum(right), 60)
        for group, index, labels in (("per_class", data.labels, NAMES), ("per_mode", data.modes, MODES[:4])):
            expected = {
                label: Count(sum(r for r, i in zip(right, index.tolist(), strict=True) if i == k), 60 // len(labels))
                for k, label in enumerate(labels)
            }
            assert getattr(found, group) == expected
    assert 0 < report["fgsm"].accuracy < report["clean"].accuracy


def test_a_mode_without_images_is_not_the_worst(data: ImageData) -> None:
    report = evaluate(Halves(), data, {"clean": None})
    assert "right/none" not in report["clean"].per_mode
    assert report["clean"].worst_mode[1].total == 15


def test_everything_is_left_as_found(data: ImageData) -> None:
    model = Halves().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    evaluate(model, data, {"clean": None, "pgd": PGD(Linf(0.1), steps=2)})
    assert model.training
    assert model.norm.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_random_starts_repeat_and_differ_between_batches(data: ImageData) -> None:
    seen: list[Tensor] = []

    class Spy(PGD):
        def perturb(self, model, x, y, **options):
            x_adv = super().perturb(model, x, y, **options)
            seen.append(x_adv - x)
            return x_adv

    same = data.subset(torch.zeros(6, dtype=torch.int64))
    attack = Spy(Linf(0.1), steps=1, step_size=0.001)
    first = evaluate(Halves(), same, {"a": attack, "b": attack}, batch_size=3)
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[3])
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(first["a"].correct_mask, first["b"].correct_mask)


def test_limit_takes_a_share_of_each_mode(data: ImageData) -> None:
    report = evaluate(Halves(), data, {"clean": None}, limit=20)
    assert [count.total for count in report["clean"].per_mode.values()] == [5, 5, 5, 5]
    assert evaluate(Halves(), data, {"clean": None}, limit=600)["clean"].count.total == 60


def test_json_has_the_documented_form(data: ImageData) -> None:
    report = evaluate(Halves(), data, {"clean": None, "pgd10": PGD(Linf("8/255"), steps=10)})
    content = json.loads(json.dumps(report.to_json()))["attacks"]
    assert content["clean"]["parameters"] == {"attack": None}
    pgd = content["pgd10"]
    assert {"attack": "PGD", "steps": 10, "norm": "linf"}.items() <= pgd["parameters"].items()
    assert pgd["parameters"]["loss"].endswith("cross_entropy")
    assert pgd["correct"] == pgd["outcomes"].count("1") == report["pgd10"].count.correct
    assert pgd["total"] == len(pgd["outcomes"]) == 60
    assert pgd["per_class"].keys() == set(NAMES)
    assert sum(mode["correct"] for mode in pgd["per_mode"].values()) == pgd["correct"]


def test_progress_is_told_image_by_image(data: ImageData) -> None:
    told: list[tuple[str, int]] = []
    evaluate(Halves(), data, {"clean": None}, batch_size=25, advance=lambda name, count: told.append((name, count)))
    assert told == [("clean", 25), ("clean", 25), ("clean", 10)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attacks": {}}, "no attack to measure"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"limit": 0}, "limit=0"),
    ],
)
def test_bad_settings_are_refused(data: ImageData, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(Halves(), data, **({"attacks": {"clean": None}} | options))


def test_a_model_of_other_classes_is_refused(data: ImageData) -> None:
    with pytest.raises(ValueError, match="the model has 3 classes and the data 2"):
        evaluate(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), data, {"clean": None})
    with pytest.raises(ValueError, match="no images"):
        evaluate(Halves(), data.subset(torch.zeros(0, dtype=torch.int64)), {"clean": None})


def test_other_data_than_image_data_is_named() -> None:
    with pytest.raises(TypeError, match=r"data is a list, expected protoat\.data\.ImageData"):
        evaluate(nn.Flatten(), [], {"clean": None})  # type: ignore[arg-type]
