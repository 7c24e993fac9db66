"""Weights as scripts and libraries save them, and files that are none."""

from __future__ import annotations

import argparse
import io
import logging
import os
import zipfile
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from protoat.data import ImageData
from protoat.models.transfer import transfer
from protoat.pretraining.weights_file import read_tensors, split_spec
from protoat.recipes.initialise import Initialise, digest
from protoat.runs.any_model import build_model

SOURCE = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, num_classes=2):
        block = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        super().__init__(block, nn.Flatten(), nn.Linear(4, num_classes))
"""
SPEC = "net_of_weights_tests:Net"
DATA = ImageData(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.arange(2), ("a", "b"))


@pytest.fixture
def net(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """A network whose class the user has in a module, with statistics and weights of its own."""
    folder = tmp_path_factory.mktemp("code")
    (folder / "net_of_weights_tests.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(folder)
    torch.manual_seed(3)
    model = import_module("net_of_weights_tests").Net()
    model(torch.rand(4, 3, 32, 32))
    return model.eval()


def same(model: nn.Module, net: nn.Module) -> bool:
    x = torch.rand(2, 3, 32, 32)
    return torch.equal(model.eval()(x), net(x))


def named(net: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    return {prefix + name: value for name, value in net.state_dict().items()}


def other(net: nn.Module) -> dict[str, Tensor]:
    return {name: value + 1 for name, value in named(net).items()}


def load(path: Path | str, content: Any) -> nn.Module:
    torch.save(content, str(path).split("#")[0])
    return build_model(SPEC, DATA, weights=path).model


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "model.", "_orig_mod.", "net.", "backbone.", "student.", "module._orig_mod.", "network.0."],
)
def test_prefixes_of_frameworks(net: nn.Module, prefix: str, tmp_path: Path) -> None:
    assert same(load(tmp_path / "x.pt", named(net, prefix)), net)


def test_a_checkpoint_of_lightning(net: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors = named(net, "model.") | {"criterion.weight": torch.ones(2)}
    content = {"epoch": 3, "state_dict": tensors, "optimizer_states": [{"state": {0: {"exp.avg": torch.ones(2)}}}]}
    assert same(load(tmp_path / "x.ckpt", content), net)
    assert "criterion.weight" in caplog.text


def test_an_averaged_model(net: nn.Module, tmp_path: Path) -> None:
    assert "n_averaged" in AveragedModel(net).state_dict()
    assert same(load(tmp_path / "x.pt", AveragedModel(net).state_dict()), net)


def test_counters_that_old_files_lack_and_statistics_that_none_may(net: nn.Module, tmp_path: Path) -> None:
    old = {name: value for name, value in named(net).items() if not name.endswith("num_batches_tracked")}
    assert len(old) < len(named(net)) and same(load(tmp_path / "x.pt", old), net)
    older = {name: value for name, value in old.items() if not name.endswith("running_mean")}
    with pytest.raises(ValueError, match=r"of another architecture: .*running_mean"):
        load(tmp_path / "x.pt", older)
    with pytest.raises(ValueError, match=r"of another architecture: .*unexpected: more\.weight"):
        load(tmp_path / "x.pt", named(net) | {"more.weight": torch.ones(2)})


@pytest.mark.parametrize(
    ("first", "second"), [("state_dict", "state_dict_ema"), ("model", "ema"), ("net", "model_ema")]
)
def test_of_several_sets_one_is_taken_and_said(
    net: nn.Module, first: str, second: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = {"epoch": 1, second: other(net), first: named(net), "args": argparse.Namespace(lr=0.1)}
    with caplog.at_level(logging.WARNING):
        assert same(load(tmp_path / "x.pt", content), net)
    assert f"{first} is taken" in caplog.text and f"x.pt#{second}" in caplog.text
    averaged = load(f"{tmp_path}/x.pt#{second}", content).state_dict()
    assert all(torch.equal(value, other(net)[name]) for name, value in averaged.items())
    with pytest.raises(ValueError, match=f"nothing called 'em'; it has {second}, {first}"):
        load(f"{tmp_path}/x.pt#em", content)


def test_sets_none_of_which_is_usual_are_asked_for(net: nn.Module, tmp_path: Path) -> None:
    content = {"student": named(net, "module.backbone."), "teacher": other(net)}
    with pytest.raises(ValueError, match=r"state dictionaries under student, teacher; .*x.pt#student"):
        load(tmp_path / "x.pt", content)
    assert same(load(f"{tmp_path}/x.pt#student", content), net)


def test_sets_that_differ_by_a_prefix(net: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    twins = {**{f"teacher.{name}": value for name, value in other(net).items()}, **named(net, "student.")}
    assert same(load(tmp_path / "x.pt", twins), net)
    assert "begin with student. are taken" in caplog.text
    taught = load(f"{tmp_path}/x.pt#teacher", twins).state_dict()
    assert all(torch.equal(value, other(net)[name]) for name, value in taught.items())
    unknown = {**{f"ema.{name}": value for name, value in other(net).items()}, **named(net, "online.")}
    with pytest.raises(ValueError, match="several sets that fit, ema and online; name one behind the file"):
        load(tmp_path / "x.pt", unknown)


def test_layers_of_one_shape_are_no_sets() -> None:
    make = lambda: nn.Sequential(*(nn.Sequential(nn.Linear(2, 2)) for _ in range(3)))  # noqa: E731
    source, target = make(), make()
    assert transfer(source.state_dict(), target).missing == []
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


def test_a_set_is_part_of_what_weights_are(net: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"state_dict": named(net), "ema": other(net)}, path)
    files = [Initialise(weights=Path(spec)).file for spec in (str(path), f"{path}#ema", f"{path}#state_dict")]
    assert len({digest(file) for file in files}) == 3
    (tmp_path / "a#b.pt").write_bytes(path.read_bytes())
    assert split_spec(tmp_path / "a#b.pt") == (tmp_path / "a#b.pt", None)
    with pytest.raises(ValueError, match="there is no such file"):
        _ = Initialise(weights=tmp_path / "none.pt#ema").file


def pipe(path: Path) -> None:
    os.mkfifo(path)


def script(path: Path) -> None:
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), path)


def truncated(path: Path) -> None:
    torch.save({"a.b": torch.rand(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])


def dense(path: Path) -> None:
    whole = io.BytesIO()
    torch.save({"a.b": torch.zeros(10**7)}, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.namelist():
            target.writestr(entry, source.read(entry))


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


NONE = {
    "folder": (Path.mkdir, "no regular file"),
    "zero": (lambda path: path.symlink_to("/dev/zero"), "no regular file"),
    "pipe": (pipe, "no regular file"),
    "loop": (lambda path: path.symlink_to(path), "no weights file"),
    "empty": (Path.touch, "it is empty"),
    "page": (lambda path: path.write_text("<!DOCTYPE html><html>"), "it is text, such as a page"),
    "pointer": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "script": (script, "TorchScript|neither safetensors"),
    "truncated": (truncated, "neither safetensors"),
    "dense": (dense, "neither safetensors"),
    "sparse": (sparse, "neither safetensors"),
    "expanded": (lambda path: torch.save({"a.b": torch.zeros(1).expand(10**6, 10**6)}, path), "made to harm"),
    "object": (lambda path: torch.save({"a.b": torch.zeros(1), "c": nn.Linear(2, 2)}, path), "Linear"),
}


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("kind", NONE)
@pytest.mark.filterwarnings("ignore:.*torch.jit:")
def test_what_is_no_weights_file_is_named_in_a_line(kind: str, suffix: str, tmp_path: Path) -> None:
    make, reason = NONE[kind]
    path = tmp_path / f"{kind}.{suffix}"
    make(path)
    with pytest.raises(ValueError, match=kind) as caught:
        read_tensors(path)
    assert "\n" not in str(caught.value)
    if suffix == "pt" or kind not in ("script", "object", "expanded"):
        assert any(part in str(caught.value) for part in reason.split("|")), caught.value


def test_a_folder_that_only_looks_like_a_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no weights file x\.pt"):
        read_tensors("x.pt#ema")
    with pytest.raises(ValueError, match="there is no weights file #ema"):
        read_tensors("#ema")
