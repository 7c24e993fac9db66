"""`evaluate`, `lint`, `audit` and the validation of `fit` take the same forms of images and attacks."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import protoat as pa
from protoat.evaluation.attack_names import named_attacks
from protoat.evaluation.embedding import embed
from protoat.training.validation import Validation

from . import small

THREAT = pa.Linf(0.1)
CLASSES = 4


@pytest.fixture(scope="module")
def case() -> tuple[nn.Module, pa.ImageData]:
    model, data = small.digits(CLASSES, 40)
    return model, data


def forms(data: pa.ImageData) -> dict[str, Any]:
    x, y = data.pixels(), data.labels
    return {
        "images": data,
        "floats": (x, y),
        "bytes": (data.images.numpy(), y.numpy()),
        "loader": DataLoader(TensorDataset(x, y), batch_size=9),
        "data set": TensorDataset(x, y),
        "batches": list(zip(x.split(9), y.split(9), strict=True)),
    }


FORMS = ["images", "floats", "bytes", "loader", "data set", "batches"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_measured_alike(form: str, case: tuple[nn.Module, pa.ImageData]) -> None:
    model, data = case
    expected = pa.evaluate(model, data, {"clean": None, "pgd3": pa.PGD(THREAT, steps=3)}, threat=THREAT)
    found = pa.evaluate(model, forms(data)[form], ["clean", "pgd3"], threat=THREAT)
    for name in ("clean", "pgd3"):
        assert torch.equal(found[name].correct_mask, expected[name].correct_mask)
        assert found[name].parameters == expected[name].parameters
    assert 0 < found["pgd3"].accuracy < found["clean"].accuracy


class Watching(nn.Module):
    """Remembers the first image that it is shown at each value."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Any:
        self.seen.append(x.detach().clone())
        return self.network(x)


def test_floats_reach_the_model_at_their_exact_values(case: tuple[nn.Module, pa.ImageData]) -> None:
    model, data = case
    x = (data.pixels() * 0.9 + 0.033).clamp(0, 1)
    watching = Watching(model)
    pa.evaluate(watching, (x, data.labels), "clean")
    shown = torch.cat(watching.seen)
    assert all(any(torch.equal(image, other) for other in shown) for image in x)


def test_modes_are_counted(case: tuple[nn.Module, pa.ImageData]) -> None:
    model, data = case
    light = torch.arange(len(data)) % 2
    report = pa.evaluate(model, (data.pixels(), data.labels), "clean", modes=light)
    assert list(report["clean"].per_mode) == [f"{label}/{mode}" for label in range(CLASSES) for mode in range(2)]
    assert sum(count.total for count in report["clean"].per_mode.values()) == len(data)


def test_a_class_without_images_is_no_mistake(case: tuple[nn.Module, pa.ImageData]) -> None:
    model, data = case
    few = data.labels < 2
    report = pa.evaluate(model, (data.pixels()[few], data.labels[few]), "clean")
    assert list(report["clean"].per_class) == ["0", "1"]
    with pytest.raises(ValueError, match="labels outside range: found 4 to 7, expected 0 to 3 for 4 classes"):
        pa.evaluate(model, (data.pixels(), data.labels + 4), "clean")


@pytest.mark.parametrize("form", FORMS)
def test_lint_audit_and_validation_take_them(form: str, case: tuple[nn.Module, pa.ImageData]) -> None:
    model, data = case
    given = forms(data)[form]
    expected = [found.code for found in pa.lint(model, data, THREAT, {"pgd2": pa.PGD(THREAT, steps=2)})]
    assert [found.code for found in pa.lint(model, given, THREAT, "pgd2")] == expected
    report = pa.audit(model, given, THREAT, images=20, only=["C15", "C16"])
    assert (report["C15"].status, report["C16"].status) == ("pass", "pass")
    validation = Validation(given, pa.PGD(THREAT, steps=2), device=torch.device("cpu"))
    assert validation(model)["clean"] == Validation(data, None, device=torch.device("cpu"))(model)["clean"]


class Wide(nn.Module):
    """A float32 network to which nothing but float64 comes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.wide = network, nn.Parameter(torch.ones((), dtype=torch.float64))
        for parameter in network.parameters():
            parameter.data = parameter.data.double()
        network.double()

    def forward(self, x: Tensor) -> Any:
        assert x.dtype == torch.float64
        return self.network(x)


@pytest.mark.parametrize("images", ["uint8", "float32", "float64"])
def test_images_are_as_wide_as_the_model(images: str, case: tuple[nn.Module, pa.ImageData]) -> None:
    model, data = case
    expected = pa.evaluate(model, data, {"clean": None, "pgd3": pa.PGD(THREAT, steps=3)})
    other = data if images == "uint8" else dataclasses.replace(data, images=data.pixels().to(getattr(torch, images)))
    wide = Wide(copy.deepcopy(model))
    report = pa.evaluate(wide, other, {"clean": None, "pgd3": pa.PGD(THREAT, steps=3)})
    assert torch.equal(report["clean"].correct_mask, expected["clean"].correct_mask)
    assert report["pgd3"].count.correct == pytest.approx(expected["pgd3"].count.correct, abs=1)
    narrow = pa.evaluate(model, other, "clean")
    assert torch.equal(narrow["clean"].correct_mask, expected["clean"].correct_mask)
    assert pa.lint(wide, other, THREAT, "pgd2") == pa.lint(model, data, THREAT, "pgd2")
    assert pa.audit(wide, other, THREAT, images=20, only=["C15"])["C15"].status == "pass"
    attack, device = pa.PGD(THREAT, steps=2), torch.device("cpu")
    for given in (other, pa.ImageLoader(other, batch_size=9)):
        validation = Validation(given, attack, device=device, dtypes=[torch.float64])
        assert validation(wide)["clean"] == expected["clean"].accuracy
    assert embed(wide, other, torch.arange(3)).images.dtype == torch.float64


class TestAttacks:
    @pytest.mark.parametrize(
        ("given", "names"),
        [
            ("clean", ["clean"]),
            (None, ["clean"]),
            ("pgd20", ["clean", "pgd20"]),
            (pa.FGSM(THREAT), ["clean", "fgsm"]),
            (["pgd20", "clean"], ["pgd20", "clean"]),
            ([pa.PGD(THREAT), pa.PGD(THREAT, steps=3), "fgsm@0.2"], ["clean", "pgd", "pgd-2", "fgsm@0.2"]),
            ({"short": "pgd3", "mine": pa.PGD(THREAT)}, ["clean", "short", "mine"]),
            (("aa", None), ["aa", "clean"]),
        ],
        ids=str,
    )
    def test_in_any_form_are_attacks_by_name(self, given: Any, names: list[str]) -> None:
        found = named_attacks(given, THREAT)
        assert list(found) == names
        assert all((attack is None) == (name == "clean") for name, attack in found.items())
        if "pgd-2" in found:
            assert (found["pgd"].steps, found["pgd-2"].steps, found["fgsm@0.2"].threat) == (10, 3, pa.Linf(0.2))

    @pytest.mark.parametrize(
        ("given", "error", "said"),
        [
            ({}, ValueError, "no attack to measure"),
            ([], ValueError, "no attack to measure"),
            (3, TypeError, "attacks is a int, expected attacks or their names"),
            ([pa.PGD], TypeError, "expected an attack or its name; write"),
            ({1: pa.PGD(THREAT)}, TypeError, "name=1 is a int"),
            ("pdg20", ValueError, "did you mean 'pgd20'"),
        ],
    )
    def test_of_another_kind_are_refused(self, given: Any, error: type[Exception], said: str) -> None:
        with pytest.raises(error, match=said):
            named_attacks(given, THREAT)

    def test_names_need_a_threat_model(self, case: tuple[nn.Module, pa.ImageData]) -> None:
        with pytest.raises(ValueError, match=r"attack 'pgd20' is given by name, .*: threat=protoat.Linf\(8/255\)"):
            pa.evaluate(*case, ["clean", "pgd20"])
        assert pa.evaluate(*case, "clean").worst_case.accuracy > 0.5


def test_the_program_of_the_front_door(case: tuple[nn.Module, pa.ImageData]) -> None:
    model, data = case
    x, y = data.pixels(), data.labels
    attack = pa.PGD(pa.Linf(8 / 255), steps=10)
    x_adv = attack(model, x, y).x_adv
    assert float((x_adv - x).abs().max()) <= 8 / 255 + 1e-6
    report = pa.evaluate(
        model, DataLoader(TensorDataset(x, y), batch_size=8), ["clean", "pgd20"], threat=pa.Linf(8 / 255)
    )
    assert report["pgd20"].parameters["eps"] == 8 / 255
