"""The scripts of `examples/` run as they stand, and what they print and leave behind is true."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.io import write_png
from torchvision.models import get_model

import protoat as pa

FOLDER = Path(__file__).parents[1] / "examples"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    def script(name: str, *arguments: str) -> dict[str, Any]:
        """Runs a script as ``python examples/name`` does; returns its variables."""
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        return runpy.run_path(str(FOLDER / name), run_name="__main__")

    return script


def pictures(folder: Path) -> Path:
    """Two classes of two modes with six grey pictures each, which grow brighter from mode to mode."""
    for number in range(24):
        mode = folder / "ab"[number // 12] / "wxyz"[number // 6]
        mode.mkdir(parents=True, exist_ok=True)
        write_png(torch.full((1, 8, 8), 10 * number, dtype=torch.uint8), str(mode / f"{number}.png"))
    return folder


def inside(report: pa.Report) -> None:
    """No attack raises accuracy, and the worst case is below each."""
    accuracies = [found.accuracy for found in report.attacks.values()]
    assert report.worst_case.accuracy <= min(accuracies) <= max(accuracies) == report["clean"].accuracy


@pytest.mark.slow
def test_attack_my_model(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = run("attack_my_model.py")
    said = re.findall(r"accuracy ([\d.]+)%", capsys.readouterr().out)
    clean, pgd, square, ensemble = map(float, said)
    assert clean > 90 and ensemble <= min(pgd, square) and max(pgd, square) < clean
    x_adv: Tensor = found["targeted"].x_adv
    assert (x_adv - found["x"]).abs().max() <= 0.1 + 1e-6 and 0 <= x_adv.min() <= x_adv.max() <= 1
    reached = found["model"](x_adv).argmax(1) == (found["y"] + 1) % 10
    assert torch.equal(reached, found["targeted"].success)


@pytest.mark.parametrize("library", ["torchvision", pytest.param("timm", marks=pytest.mark.slow)])
def test_robust_accuracy(run: Any, library: str, tmp_path: Path) -> None:
    if library == "timm":
        timm = pytest.importorskip("timm", reason="timm is not installed: pip install timm")
    network = (
        get_model("resnet18", weights=None, num_classes=2)
        if library == "torchvision"
        else timm.create_model("resnet18", num_classes=2)
    )
    torch.save(network.state_dict(), "tuned.pt")
    arguments = ["--model", f"{library}:resnet18", "--weights", "tuned.pt", "--images", str(pictures(tmp_path / "all"))]
    found = run("robust_accuracy.py", *arguments, "--attacks", "clean", "pgd2", "apgd-t")
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in found["network"].state_dict().items())
    inside(found["report"])
    assert found["report"]["clean"].per_class.keys() == {"a", "b"} and found["report"]["clean"].count.total == 24


def test_robust_accuracy_without_arguments(run: Any) -> None:
    inside(run("robust_accuracy.py")["report"])


def test_training_loop(run: Any, tmp_path: Path) -> None:
    found = run("training_loop.py")
    inside(found["report"])
    assert found["report"]["pgd20"].accuracy > 0.6 and len(found["report"]["pgd20"].per_mode) == 10
    assert found["epoch"].number == found["EPOCHS"] and found["objective"].stopped is None
    saved = torch.load(found["file"], weights_only=True)
    found["objective"].load_state_dict(saved["objective"])
    found["model"].load_state_dict(saved["model"])
    assert not any(tmp_path.iterdir()), "an example leaves nothing in the folder it is run from"


def test_finetune_folders(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(pictures(tmp_path / "mine")), "--size", "8", "--out", "run"]
    first = run("finetune_folders.py", *arguments, "--epochs", "2")
    modes = re.findall(r"^(./.): [\d.]+% of 1 images", capsys.readouterr().out, re.MULTILINE)
    assert modes == ["a/w", "a/x", "b/y", "b/z"]
    assert sum(count.total for count in first["report"]["pgd20"].per_mode.values()) == 4  # one of six is held out
    torch.save(first["network"].state_dict(), "mine.pt")
    second = run("finetune_folders.py", *arguments[:-2], "--epochs", "1", "--weights", "mine.pt")
    inside(second["report"])


def test_finetune_folders_without_arguments(run: Any) -> None:
    report = run("finetune_folders.py")["report"]
    inside(report)
    assert list(report["clean"].per_mode) == [f"{'0-4' if mode < 5 else '5-9'}/{mode}" for mode in range(10)]


@pytest.mark.slow
def test_pretrain(run: Any) -> None:
    found = run("pretrain.py")
    before, after = found["acl"].classifier(found["encoder"]), found["starts"]["ACL"]
    assert not torch.equal(before.head.weight, after.head.weight)  # a frozen head would be as it was drawn
    assert len(found["labelled"]) == 200


@pytest.mark.slow
def test_compare_checkpoints(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = run("compare_checkpoints.py")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    for line in lines:
        p = float(re.search(r"p = ([\d.e-]+)", line).group(1))
        assert ("no difference shown" in line) == (p >= 0.05 / 3)
    first, second = (found["reports"][name]["clean"].correct_mask for name in found["methods"])
    assert f"{(second.sum() - first.sum()).item() / len(first):+.1%}" in lines[0]


def test_new_attack(run: Any) -> None:
    found = run("new_attack.py")
    inside(found["report"])
    assert found["report"]["cosinepgd"].parameters["steps"] == 20
    attack = found["CosinePGD"](pa.L2(0.5), steps=3)
    x, y = torch.rand(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64)
    assert (attack(found["model"], x, y, targets=y + 1).x_adv - x).flatten(1).norm(dim=1).max() <= 0.5 + 1e-5


def test_new_regularizer(run: Any) -> None:
    found = run("new_regularizer.py")
    embedding = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    term = found["CenterLoss"](2, 2)
    term.centers.data = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    assert term(embedding, torch.tensor([0, 1])).item() == 0.5 * (1 + 4) / 2
    inside(found["report"])


def test_every_example_is_short_in_the_index_and_tested() -> None:
    index, tests = (FOLDER / "README.md").read_text(), Path(__file__).read_text()
    scripts = sorted(FOLDER.glob("*.py"))
    assert scripts and set(re.findall(r"\((\w+\.py)\)", index)) == {script.name for script in scripts}
    for script in scripts:
        text = script.read_text()
        assert f'run("{script.name}"' in tests and f"python examples/{script.name}" in text
        assert 18 <= len(text.splitlines()) <= 53  # three of them are the heading for the gallery
