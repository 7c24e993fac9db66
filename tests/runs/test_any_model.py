"""Models of other people: where they are looked for, which weights they take, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

from protoat.data import Digits, ImageData, regroup
from protoat.models import LeNet
from protoat.runs.any_model import build_model

DATA = regroup(Digits().load("test"), 2)
SOURCE = """
import torch
from torch import nn

def small():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))

class Told(nn.Module):
    def __init__(self, in_channels, num_classes, *, image_size, width=4):
        super().__init__()
        self.facts = num_classes, in_channels, image_size, width
        self.layer = nn.Linear(image_size, num_classes)

    def forward(self, x):
        return self.layer(x.mean((1, 2)))

ready = small()
number = lambda: 3

def raising():
    raise ValueError("boom")

def wide(depth, widen_factor, num_classes=10):
    return small()

def nameless(num_classes, /):
    return small()
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a module of the user's, on the path as commands have it."""
    (tmp_path / "my_models.py").write_text(SOURCE)
    (tmp_path / "needy_models.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name in ("my_models", "needy_models"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.mark.parametrize("spec", ["my_models:small", "my_models:ready", "my_models.small"])
def test_a_builder_or_a_module(here: Path, spec: str) -> None:
    first, again = build_model(spec, DATA), build_model(spec, DATA)
    assert (first.weights, len(first.sha256), first.mean) == ("as built", 64, None)
    assert first.sha256 == again.sha256
    assert first.model(torch.zeros(3, 1, 8, 8)).shape == (3, 2)


def test_a_builder_that_needs_facts_is_told_them(here: Path) -> None:
    assert build_model("my_models:Told", DATA).model.facts == (2, 1, 8, 4)
    net = build_model("protoat.models:LeNet", DATA).model
    assert isinstance(net, LeNet)
    assert (net.image_shape, net.head.out_features) == ((1, 8, 8), 2)


@pytest.mark.parametrize("form", ["safetensors", "pt", "nested", "wrapped", "run"])
def test_weights_come_from_every_plain_file(here: Path, form: str) -> None:
    torch.manual_seed(1)
    source = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    state = source.state_dict()
    path = here / ("w.safetensors" if form in ("safetensors", "run") else "w.pt")
    content = {
        "safetensors": state,
        "pt": state,
        "nested": {"epoch": 3, "state_dict": state},
        "wrapped": {f"module.{key}": value for key, value in state.items()},
        "run": {**{f"model.{key}": value for key, value in state.items()}, "objective.regularizer.x": torch.ones(1)},
    }[form]
    (safetensors.torch.save_file if path.suffix == ".safetensors" else torch.save)(content, path)
    found = build_model("my_models:small", DATA, weights=path)
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(found.model(x), source(x))
    assert (found.weights, found.mean) == (path.name, None)
    assert found.sha256 != build_model("my_models:small", DATA).sha256


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("small", "is not understood; write package.module:builder"),
        ("my_models:", "is not understood"),
        ("no_such_module:small", "there is no module no_such_module"),
        ("protoat.nothing:small", "there is no module protoat.nothing"),
        ("my_models:smal", "my_models has no smal; did you mean 'small'"),
        ("my_models:number", "my_models:number is of type int, expected torch.nn.Module"),
        ("my_models:__name__", "my_models:__name__ is of type str, expected torch.nn.Module"),
        ("my_models:raising", r"^--model my_models:raising raised ValueError: boom \(my_models\.py:21\)$"),
        (
            "my_models:wide",
            "my_models:wide needs depth, widen_factor, and a builder is told num_classes, in_channels, image_size only",
        ),
        ("my_models:nameless", "my_models:nameless needs num_classes, and a builder is told .* only, by name"),
        ("needy_models:small", r"raised ModuleNotFoundError: No module named 'a_package_.*' \(needy_models\.py:1\)$"),
        ("torchvision:resnet17", "torchvision:resnet17 is unknown; did you mean 'resnet1"),
    ],
)
def test_what_is_no_model_is_refused(here: Path, spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(spec, DATA)


class Code:
    def __reduce__(self) -> tuple:
        return print, ("code of the file was run",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no weights file"),
        (
            {"1.weight": torch.zeros(3, 64), "1.bias": torch.zeros(2)},
            r"another architecture: .*of another shape: 1.weight",
        ),
        ({"1.weight": torch.zeros(2, 64)}, "another architecture: .*missing: 1.bias"),
        ({"1.weight": torch.zeros(2, 64), "1.bias": torch.zeros(2), "2.bias": torch.zeros(2)}, "unexpected: 2.bias"),
        ({"1.weight": torch.full((2, 64), torch.nan), "1.bias": torch.zeros(2)}, "finite"),
        ({"other": torch.zeros(2)}, "weights"),
        ([1, 2], "holds a list, expected tensors by name"),
        (Code(), "neither safetensors nor"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    here: Path, content: object, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        torch.save(content, here / "w.pt")
    with pytest.raises(ValueError, match=message):
        build_model("my_models:small", DATA, weights=here / "w.pt")
    assert "was run" not in capsys.readouterr().out


def test_torchvision_with_weights_of_ones_own(here: Path) -> None:
    source = torchvision.models.get_model("squeezenet1_1", num_classes=2)
    safetensors.torch.save_file(source.state_dict(), here / "own.safetensors")
    found = build_model("torchvision:squeezenet1_1", DATA, weights=here / "own.safetensors")
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in found.model.state_dict().items())
    assert found.mean is None


def test_no_weights_are_random_ones_for_the_classes_of_the_data(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", FakeTimm())  # type: ignore[arg-type]
    for spec in ("torchvision:squeezenet1_1", "timm:other_net", "my_models:small"):
        found, again = (build_model(spec, DATA, weights="none") for _ in range(2))
        assert (found.weights, found.mean) == ("as built", None)
        assert [*found.model.parameters()][-1].shape == (2,)
        assert found.sha256 == again.sha256


def test_pretrained_weights_of_torchvision_bring_their_normalisation(monkeypatch: pytest.MonkeyPatch) -> None:
    state, asked = torchvision.models.squeezenet1_1().state_dict(), {}

    def download(url: str, **options: object) -> dict:
        asked.update(options)
        return state

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    found = build_model("torchvision:squeezenet1_1", DATA)
    assert asked["weights_only"] is True
    assert (found.weights, found.mean, found.std) == ("pretrained", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert torch.equal(found.model.state_dict()["classifier.1.weight"], state["classifier.1.weight"])

    def offline(url: str, **options: object) -> dict:
        raise URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(ValueError, match=r"weights of torchvision:squeezenet1_1 could not be had .*--weights FILE"):
        build_model("torchvision:squeezenet1_1", DATA)


class FakeTimm(SimpleNamespace):
    """As much of timm as is used."""

    def list_models(self) -> list[str]:
        return ["tiny_net", "other_net"]

    def list_pretrained(self) -> list[str]:
        return ["tiny_net.of_a_tag"]

    def create_model(self, name: str, *, pretrained: bool, num_classes: int = 1000) -> nn.Module:
        if pretrained and name == "other_net":
            raise RuntimeError("Hub is\noffline")
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
        model.pretrained_cfg = {"mean": [0.5], "std": [0.25]}
        return model


def test_timm_is_used_where_it_is_installed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", FakeTimm())  # type: ignore[arg-type]
    found = build_model("timm:tiny_net", DATA)
    assert (found.weights, found.mean, found.std) == ("pretrained", (0.5,), (0.25,))
    assert found.model[1].out_features == 1000
    safetensors.torch.save_file(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).state_dict(), here / "w.safetensors")
    assert build_model("timm:tiny_net", DATA, weights=here / "w.safetensors").model[1].out_features == 2
    with pytest.raises(ValueError, match="timm:tny_net is unknown; did you mean 'tiny_net'"):
        build_model("timm:tny_net", DATA)
    with pytest.raises(ValueError, match=r"weights of timm:other_net could not be had \(Hub is offline\)"):
        build_model("timm:other_net", DATA)


def test_without_timm_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)  # type: ignore[arg-type] # what makes an import fail
    with pytest.raises(ValueError, match="timm is not installed; install it: pip install timm"):
        build_model("timm:tiny_net", DATA)


def test_the_global_random_state_is_left_alone(here: Path) -> None:
    state = torch.get_rng_state()
    build_model("my_models:small", ImageData(DATA.images, DATA.labels, DATA.class_names))
    assert torch.equal(torch.get_rng_state(), state)
