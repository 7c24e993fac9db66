"""``protoat evaluate``: any model, what is refused, and measurements that were killed or shared."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from torch import nn

from protoat.cli import main
from protoat.data import Digits, ImageData
from protoat.recipes.reading import read_recipe
from protoat.runs.train import train
from protoat.storage.manifest import write_record
from tests.compiling import counted
from tests.processes import begin

SHORT = ["--epochs", "3", "--validation_size", "50", "--method", "Standard", "--schedule", "none", "--batch_size", "64"]
BUILDERS = """
from torch import nn

def linear(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))

def other_shape():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))

def three_classes():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(read_recipe("digits-2", SHORT), folder, progress=False)
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A trained run that nobody has measured."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with builders, and weights of a linear classifier that knows some digits."""
    (tmp_path / "evaluate_builders.py").write_text(BUILDERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "evaluate_builders", raising=False)
    data = Digits().load("train")
    x, model = data.images.flatten(1).float() / 255, nn.Linear(64, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), data.labels).backward()
        optimizer.step()
    for name, scale in (("a", 1.0), ("b", 0.5)):
        state = {"1.weight": scale * model.weight.detach(), "1.bias": model.bias.detach()}
        safetensors.torch.save_file(state, tmp_path / f"{name}.safetensors")
    return tmp_path


MODEL = ["evaluate", "--model", "evaluate_builders:linear", "--data", "Digits", "--threat.eps", "0.05", "--out", "out"]


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Callable[..., tuple[str, str]]:
    """Runs a command that must succeed; returns what it printed, and what it logged."""

    def call(*args: str) -> tuple[str, str]:
        capsys.readouterr()
        caplog.clear()
        assert main([*args]) == 0
        return capsys.readouterr().out, caplog.text

    return call


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must fail with one line; returns it."""

    def call(*args: str) -> str:
        capsys.readouterr()
        assert main([*args]) == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.count("\n") == 1, shown.err
        assert shown.err.startswith("protoat evaluate: error: ")
        return shown.err

    return call


def record(folder: Path) -> dict:
    return json.loads((folder / "evaluation.json").read_text())


def test_any_model_with_weights_is_measured_and_shown(here: Path, printed) -> None:
    shown, _ = printed(*MODEL, "--weights", "a.safetensors", "--attacks", "fgsm", "pgd5:next", "--n", "200")
    found = record(here / "out")
    assert found["subject"]["model"] == "evaluate_builders:linear"
    assert found["subject"]["weights"] == "a.safetensors"
    assert 200 > found["attacks"]["clean"]["correct"] > found["worst_case"]["correct"] > 100
    for name, entry in {**found["attacks"], "worst case": found["worst_case"]}.items():
        row = next(line for line in shown.splitlines() if line.startswith(f"│ {name} "))
        assert f" {entry['correct'] / 2:.1f} " in row
    assert "not audited for masked gradients; do so: protoat audit, with the options that name it here" in shown
    assert "linf 0.05" in printed("show", "out")[0]


def test_compiled_attacks_are_recorded(here: Path, printed, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = counted(monkeypatch, "eager")
    printed(*MODEL, "--weights", "a.safetensors", "--attacks", "pgd3", "--n", "40", "--compile")
    attacks = record(here / "out")["attacks"]
    assert attacks["pgd3"]["parameters"]["compiled"] is True and "compiled" not in attacks["clean"]["parameters"]
    assert graphs.frame_count == 1


def test_what_the_compiler_refuses_is_one_line(here: Path, refused, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(*_: object) -> object:
        raise RuntimeError("no kernel for this\n\nand a long log")

    counted(monkeypatch, refusing)
    said = refused(*MODEL, "--weights", "a.safetensors", "--attacks", "pgd3", "--compile")
    assert "cannot be compiled here: " in said and "no kernel for this; " in said and "or leave out --compile" in said


def test_other_weights_put_the_record_aside(here: Path, printed) -> None:
    printed(*MODEL, "--weights", "a.safetensors", "--attacks", "fgsm")
    _, said = printed(*MODEL, "--weights", "b.safetensors", "--attacks", "clean")
    assert "weights, sha256 changed" in said
    (aside,) = (here / "out").glob("evaluation-*.json")
    assert f"is now {aside.name}; it held clean, fgsm" in said
    assert json.loads(aside.read_text())["subject"]["weights"] == "a.safetensors"
    assert record(here / "out")["subject"]["weights"] == "b.safetensors"


def test_the_default_is_strong_and_knows_the_prototypes(run: Path, printed) -> None:
    printed("evaluate", str(run), "--n", "10", "--threat.eps", "0.7")
    names = [f"adaptive-{name}" for name in ("combined", "leave", "approach", "displace")]
    assert list(record(run)["attacks"]) == ["clean", "fgsm", "pgd10", "aa-k2", *names]
    assert record(run)["worst_case"]["parameters"]["attacks"] == list(record(run)["attacks"])


def test_progress_is_said_where_there_is_no_terminal(run: Path, printed, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(range(0, 10_000, 20))
    monkeypatch.setattr("protoat.cli.progress.time", SimpleNamespace(monotonic=lambda: next(times)))
    _, said = printed("evaluate", str(run), "--attacks", "fgsm", "--batch-size", "100")
    lines = [line for line in said.splitlines() if "s left" in line]
    assert len(lines) == 2  # one after more than a minute, with ten steps of twenty seconds
    right = int(record(run)["attacks"]["clean"]["correct"]) / 5
    assert "40 % done, about 120 s left: clean " in lines[0]
    assert "80 % done, about 40 s left: clean " in lines[1]
    assert abs(float(lines[1].split("clean ")[1].split(" %")[0]) - right) < 5


def test_names_of_attacks_are_listed(printed) -> None:
    shown, _ = printed("evaluate", "--attacks.help")
    for name in (
        "aa ",
        "apgd-ce[N][xR][:RULE]",
        "pgd[N][xR][/STEP][:RULE]",
        "fab-t",
        "square",
        "cw-l2",
        "deepfool",
        "jsma",
        "transfer:RUN",
    ):
        assert f"\n{name}" in f"\n{shown}"
    lines = [line for line in shown.split("\n\n")[0].splitlines() if "{" not in line]
    assert {line[26] for line in lines} == {" "} and " " not in {line[27] for line in lines}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--attacks", "pdg10"], "attack 'pdg10' is unknown; did you mean 'pgd10'?"),
        (["--attacks", "fgsm", "fgsm"], "two attacks are called 'fgsm'"),
        (["--attacks", "deepfool:all"], "attack 'deepfool:all': DeepFool has no targeted form"),
        (["--attacks", "pgd10@8"], "attack 'pgd10@8': eps=8 is outside (0, 1]; pixels are in [0, 1], so write 8/255"),
        (["--attacks", "pgd0"], "attack 'pgd0': steps=0"),
        (["--attacks", "adaptive"], "has none, of SoftTriple or of a head"),
        (["--attacks", "transfer:nowhere"], "nowhere is not a run folder"),
        (["--threat.eps", "8"], "eps=8 is outside (0, 1]; pixels are in [0, 1], so write 8/255"),
        (["--n", "0"], "--n 0 must be more than 0"),
        (["--n", "many"], "n=many is not valid; expected int or none"),
        (["--batch-size", "0"], "--batch-size 0 must be more than 0"),
        (["--budget-seconds", "-1"], "--budget-seconds -1 must be more than 0"),
        (["--model", "evaluate_builders:other_shape"], "the model cannot take an image of shape (1, 1, 8, 8)"),
        (["--model", "evaluate_builders:three_classes"], "the model gives (1, 3) for one image, expected (1, 10)"),
        (["--model", "evaluate_builders:lineer"], "did you mean 'linear'?"),
        (["--model", "evaluate_builders:three_classes", "--weights", "a.safetensors"], "of another shape: 1.weight"),
        (["--model", "timm:resnet18"], "timm is not installed"),
        (["--weights", "c.safetensors"], "there is no weights file c.safetensors"),
        (["--data", "ImageFolder", "--data.path", "absent"], "there is no folder absent"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_record(
    here: Path, refused, monkeypatch: pytest.MonkeyPatch, args: list[str], message: str
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)  # type: ignore[arg-type] # also where it is installed
    assert message in refused(*MODEL, *args)
    assert not (here / "out").exists()


def test_an_empty_data_set_is_refused(here: Path, refused, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Digits().load("test")
    empty = ImageData(data.images[:0], data.labels[:0], data.class_names)
    monkeypatch.setattr(Digits, "load", lambda self, split: empty)
    assert "the data holds no images" in refused(*MODEL)
    assert not (here / "out").exists()


def test_a_run_whose_weights_do_not_fit_or_are_damaged_is_refused(run: Path, refused) -> None:
    tensors = safetensors.torch.load_file(run / "best.safetensors")
    tensors["model.head.weight"] = tensors["model.head.weight"][:1].clone()
    write_record(run / "best.safetensors", safetensors.torch.save(tensors))
    assert "of another shape: head.weight" in refused("evaluate", str(run))
    (run / "best.safetensors").write_bytes(b"half")
    assert "best.safetensors is damaged" in refused("evaluate", str(run))
    write_record(run / "best.safetensors", b"half")
    assert "is not a whole safetensors file" in refused("evaluate", str(run))
    assert not list(run.glob("evaluation*"))


def test_more_images_than_there_are_is_said(here: Path, printed) -> None:
    _, said = printed(*MODEL, "--n", "501", "--attacks", "clean")
    assert "--n 501: there are 500 test images, all of them are measured" in said


ATTACKS = ["--attacks", "fgsm", "pgd20x2", "square100", "--batch-size", "25"]


def outcomes(folder: Path) -> dict[str, str]:
    return {name: entry["outcomes"] for name, entry in record(folder)["attacks"].items()}


@pytest.mark.slow
def test_a_measurement_that_was_killed_ends_like_one_that_was_not(run: Path, tmp_path: Path, printed) -> None:
    out = tmp_path / "out"
    command = ["evaluate", str(run), "--out", str(out), *ATTACKS]
    process = begin("-m", "protoat", *command, log=tmp_path / "log")
    while len(list(out.glob("evaluation.partial/*.json"))) < 9 and process.is_alive():
        time.sleep(0.01)
    process.kill()
    process.join()
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("evaluation.partial/*.json")}
    assert 9 <= len(kept) < 80
    assert not (out / "evaluation.json").exists()
    printed(*command, "--budget-seconds", "0.000001")
    now = {path.name: path.stat().st_mtime_ns for path in out.glob("evaluation.partial/*.json")}
    assert kept.items() <= now.items()
    printed(*command)
    printed("evaluate", str(run), *ATTACKS)
    assert outcomes(out) == outcomes(run)


@pytest.mark.slow
def test_two_processes_share_the_images_and_find_the_same(run: Path, in_two_processes, printed) -> None:
    attacks = [*ATTACKS, "--n", "60"]
    attacks.insert(1, "aa")
    printed("evaluate", str(run), *attacks)
    alone = record(run)
    (run / "evaluation.json").unlink()
    in_two_processes("-m", "protoat", "evaluate", str(run), *attacks)
    assert outcomes(run) == {name: entry["outcomes"] for name, entry in alone["attacks"].items()}
    assert record(run)["worst_case"]["outcomes"] == alone["worst_case"]["outcomes"]
    assert record(run)["subject"] == alone["subject"]
    assert not (run / "evaluation.partial").exists()
