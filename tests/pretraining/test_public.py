"""Files in the layouts of ACL's and RoCL's authors, written here and loaded into our ResNet-18."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protoat.models import ResNet18
from protoat.pretraining.public import of_branch
from protoat.pretraining.weights_file import read_tensors
from protoat.recipes.initialise import Initialise
from protoat.runs.build import load_pretrained


class Paired(nn.Module):
    """ACL's batch norm: a list of two, clean and attacked."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn_list = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2))
        self.index = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.bn_list[self.index](x)


class Block(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int, layout: str) -> None:
        super().__init__()
        norm = Paired if layout == "acl" else nn.BatchNorm2d
        self.conv1, self.bn1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False), norm(outside)
        self.conv2, self.bn2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False), norm(outside)
        self.way = {"acl": "downsample", "rocl": "shortcut"}[layout]
        around = nn.Sequential()
        if inside != outside:
            names = {"acl": ("conv", "bn"), "rocl": ("0", "1")}[layout]
            for name, layer in zip(
                names, (nn.Conv2d(inside, outside, 1, stride, bias=False), norm(outside)), strict=True
            ):
                around.add_module(name, layer)
        self.add_module(self.way, around)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + getattr(self, self.way)(x))


class Normalization(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean.view(3, 1, 1)) / self.std.view(3, 1, 1)


class AuthorsNet(nn.Module):
    """ResNet-18 for small images up to its pooled features, with random statistics.

    Args:
        layout: ``"acl"``, with normalisation inside and two sets of batch norm; or ``"rocl"``.
        width: channels of the first stage.
    """

    def __init__(self, layout: str, width: int = 8) -> None:
        super().__init__()
        self.normalize = Normalization() if layout == "acl" else nn.Identity()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = Paired(width) if layout == "acl" else nn.BatchNorm2d(width)
        inside = width
        for stage in range(4):
            outside = width * 2**stage
            blocks = Block(inside, outside, 1 + (stage > 0), layout), Block(outside, outside, 1, layout)
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
            inside = outside
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.uniform_(layer.running_mean, -0.3, 0.3)
                nn.init.uniform_(layer.running_var, 0.5, 1.5)
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.uniform_(layer.bias, -0.3, 0.3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(self.normalize(x))))
        for stage in range(4):
            x = getattr(self, f"layer{stage + 1}")(x)
        return x.mean((2, 3))


def choose(net: nn.Module, index: int) -> None:
    """Branch of all paired layers: 0 clean, 1 attacked."""
    for layer in net.modules():
        if isinstance(layer, Paired):
            layer.index = index


IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(5))


def saved(net: AuthorsNet, layout: str, path: Path) -> Path:
    """A file as the authors' scripts write it: ACL with its projector, RoCL wrapped and beside other things."""
    tensors = net.state_dict()
    if layout == "acl":
        optimizer = torch.optim.SGD(net.parameters(), lr=5.0, momentum=0.9).state_dict()
        projector = {f"fc.{name}": torch.rand(3) for name in ("fc1.weight", "bn1.bn_list.0.weight", "fc2.weight")}
        content: dict[str, Any] = {"epoch": 1000, "state_dict": tensors | projector, "optim": optimizer}
    else:
        wrapped = {f"module.{name}": value for name, value in tensors.items()}
        content = {"epoch": 999, "acc": torch.tensor(6.4), "model": wrapped, "rng_state": torch.get_rng_state()}
    torch.save(content, path)
    return path


def ours(layout: str) -> ResNet18:
    normal = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]} if layout == "acl" else {}
    return ResNet18(10, width=0.125, **normal)


@pytest.mark.parametrize(("layout", "branch", "index"), [("acl", None, 1), ("acl", "clean", 0), ("rocl", None, 0)])
def test_our_network_computes_what_the_authors_does(layout: str, branch: Any, index: int, tmp_path: Path) -> None:
    net = AuthorsNet(layout).eval()
    choose(net, index)
    model, record = load_pretrained(
        ours(layout), Initialise(weights=saved(net, layout, tmp_path / "x.pt"), branch=branch)
    )
    with torch.no_grad():
        logits, embedding = model.eval()(IMAGES)
        torch.testing.assert_close(embedding, net(IMAGES))
    assert not logits.any()  # the head is zero
    assert (record["missing"], record["of_another_shape"]) == ([], [])
    projector = ["fc.fc1.weight", "fc.fc2.weight"]
    assert [name for name in record["unexpected"] if "bn1" not in name] == (projector if layout == "acl" else [])
    assert record["branch"] == {("acl", 1): "adv", ("acl", 0): "clean"}.get((layout, index))


def test_normalisation_that_the_file_lacks_is_missed_by_name(tmp_path: Path) -> None:
    path = saved(AuthorsNet("rocl"), "rocl", tmp_path / "x.pt")
    assert load_pretrained(ours("acl"), Initialise(weights=path))[1]["missing"] == ["normalize.mean", "normalize.std"]


def test_normalisation_that_our_network_lacks_is_unexpected_by_name(tmp_path: Path) -> None:
    path = saved(AuthorsNet("acl"), "acl", tmp_path / "x.pt")
    unexpected = load_pretrained(ours("rocl"), Initialise(weights=path))[1]["unexpected"]
    assert {"normalize.mean", "normalize.std"} <= set(unexpected)


def test_every_mismatch_is_named_and_the_rest_is_loaded(tmp_path: Path) -> None:
    net = AuthorsNet("rocl")
    tensors = net.state_dict()
    tensors["conv1.weight"] = torch.zeros(8, 3, 5, 5)
    del tensors["layer1.0.bn1.bias"]
    tensors["linear.weight"] = torch.zeros(10, 64)
    torch.save(tensors, tmp_path / "x.pt")
    model, record = load_pretrained(ours("rocl"), Initialise(weights=tmp_path / "x.pt"))
    assert record["of_another_shape"] == ["features.conv1.weight (8, 3, 5, 5) for (8, 3, 3, 3)"]
    assert record["missing"] == ["features.layer1.0.bn1.bias"]
    assert record["unexpected"] == ["linear.weight"]
    assert record["loaded"] == len(tensors) - 2
    assert torch.equal(model.features.layer4[1].conv2.weight, net.layer4[1].conv2.weight)


def test_older_files_of_acl() -> None:
    tensors = {"bn1.weight": torch.zeros(2), "bn1_adv.weight": torch.ones(2), "conv1.weight": torch.full((2,), 3.0)}
    for branch, value in (("clean", 0.0), ("adv", 1.0)):
        found, _ = of_branch(tensors, branch)  # type: ignore[arg-type]
        assert {name: float(tensor[0]) for name, tensor in found.items()} == {"bn1.weight": value, "conv1.weight": 3.0}


def test_a_branch_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="branch='adv' is not there: clean only"):
        of_branch({"bn1.bn_list.0.weight": torch.zeros(2)}, "adv")
    with pytest.raises(ValueError, match="branch='clean' is not there: one set of batch norm only"):
        of_branch({"bn1.weight": torch.zeros(2)}, "clean")


class Harmful:
    """Would run code when it is unpickled."""

    ran = False

    def __setstate__(self, state: object) -> None:
        Harmful.ran = True


def test_a_file_that_holds_code_is_refused_in_one_line(tmp_path: Path) -> None:
    torch.save({"state_dict": AuthorsNet("rocl").state_dict(), "extra": Harmful()}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x\.pt is neither safetensors nor a torch file of plain tensors") as caught:
        read_tensors(tmp_path / "x.pt")
    assert "\n" not in str(caught.value)
    assert not Harmful.ran


@pytest.mark.parametrize("key", ["weights", "model_state"])
def test_the_only_tensors_of_a_file_are_found_under_any_name(key: str, tmp_path: Path) -> None:
    torch.save({"epoch": 1, key: {"fc.bias": torch.ones(2)}, "optimizer": {"state": {}}}, tmp_path / "x.pt")
    assert list(read_tensors(tmp_path / "x.pt")) == ["fc.bias"]


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no weights file"):
        read_tensors(tmp_path / "x.pt")
    (tmp_path / "x.pt").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"a torch file of plain tensors$"):
        read_tensors(tmp_path / "x.pt")
    (tmp_path / "x.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="neither safetensors nor"):
        read_tensors(tmp_path / "x.safetensors")
    torch.save({"epoch": 3, "history": [1, 2]}, tmp_path / "x.pt")
    with pytest.raises(
        ValueError, match=r"no state dictionary but epoch, history; expected .* state_dict, model, model_s"
    ):
        read_tensors(tmp_path / "x.pt")
    torch.save({"weights": {"a": torch.zeros(2)}, "ema": {"a": torch.ones(2)}, "epoch": 3}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="holds state dictionaries under weights, ema; expected"):
        read_tensors(tmp_path / "x.pt")
    torch.save(torch.zeros(2), tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"holds a Tensor, expected tensors by name: save model.state_dict\(\)"):
        read_tensors(tmp_path / "x.pt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pt")
    with pytest.raises(
        ValueError,
        match=r"a torch file of plain tensors, it holds torch\.nn\.\S*Linear; of a model, save model\.state_dict\(\)$",
    ):
        read_tensors(tmp_path / "x.pt")
    torch.save({"conv.weight": torch.zeros(2)}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x\.pt: no tensor fits: the file has conv\.weight, the model features\."):
        load_pretrained(ours("rocl"), Initialise(weights=tmp_path / "x.pt"))
