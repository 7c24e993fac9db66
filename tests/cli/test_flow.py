"""The commands one after the other, as a user runs them."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from protoat.cli import main
from protoat.cli.train import main as train_main
from protoat.runs.run import Run
from protoat.training.loop import Loop
from tests.whole import edit

SHORT = ["--epochs", "2", "--validation_size", "50", "--method.steps", "1", "--schedule", "none", "--batch_size", "128"]


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]):
    """Runs a command that must succeed; returns what it printed."""

    def run(*args: str) -> str:
        capsys.readouterr()
        assert main([*args]) == 0
        return capsys.readouterr().out

    return run


def test_train_evaluate_show_ls(tmp_path: Path, printed) -> None:
    run = str(tmp_path / "run")
    trained = printed("train", "--config", "digits-2", *SHORT, "--out", run)
    assert "best epoch" in trained
    assert f"next: protoat evaluate {run}" in trained
    measured = printed("evaluate", run, "--attacks", "clean", "fgsm", "pgd2", "--n", "100", "--batch-size", "64")
    content = json.loads((tmp_path / "run/evaluation.json").read_text())["attacks"]
    assert list(content) == ["clean", "fgsm", "pgd2"]
    for name, entry in content.items():
        row = next(line for line in measured.splitlines() if line.startswith(f"│ {name} "))
        assert f" {entry['correct']:.1f} " in row
    shown = printed("show", run)
    for part in ("Digits in 2, PGDAT, SoftTriple, seed 0", "prototypes in use", "pgd2", "held-out robust %"):
        assert part in shown
    listed = printed("ls", str(tmp_path))
    assert "2 of 2" in listed
    assert f"pgd2 {content['pgd2']['correct']:.1f}" in listed


def test_a_complete_run_is_not_trained_again(tmp_path: Path, printed) -> None:
    run = tmp_path / "run"
    printed("train", *SHORT, "--out", str(run))
    before = (run / "metrics.jsonl").stat().st_mtime_ns
    assert "is complete already" in printed("train", *SHORT, "--out", str(run))
    assert (run / "metrics.jsonl").stat().st_mtime_ns == before


def test_a_complete_run_is_one_of_the_same_images_wherever_they_lie(
    tmp_path: Path, printed, capsys: pytest.CaptureFixture[str]
) -> None:
    def pictures(root: str, shade: int) -> None:
        for place in range(20):
            picture = tmp_path / root / f"images/{'ab'[place % 2]}/{place}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), shade + place).save(picture)

    def command(root: str) -> list[str]:
        own = ["--data", "ImageFolder", "--data.root", str(tmp_path / root), "--groups", "none"]
        return ["train", *own, *SHORT, "--epochs", "1", "--validation_size", "0", "--out", str(tmp_path / "run")]

    for root, shade in (("here", 0), ("moved", 0), ("other", 100)):
        pictures(root, shade)
    printed(*command("here"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    assert "is complete already" in printed(*command("moved"))
    assert main(command("other")) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and len(shown.err.splitlines()) == 1
    assert "/run has changed since (as many images, but others); choose another folder" in shown.err
    assert "is complete already" in printed(*command("nowhere"))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


def test_an_interrupted_run_says_how_to_resume_and_does(
    tmp_path: Path, printed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = Loop._batch

    def interrupted(self: Loop, *args: object) -> None:
        batch(self, *args)
        if self.state.update == 12:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Loop, "_batch", interrupted)
    assert main(["train", *SHORT, "--out", str(tmp_path / "a")]) == 143
    assert "run the same command again to resume" in capsys.readouterr().err
    assert "not finished" in printed("show", str(tmp_path / "a"))
    monkeypatch.undo()
    printed("train", *SHORT, "--out", str(tmp_path / "a"))
    printed("train", *SHORT, "--out", str(tmp_path / "b"))
    assert (tmp_path / "a/last.safetensors").read_bytes() == (tmp_path / "b/last.safetensors").read_bytes()


def test_without_a_folder_the_recipe_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in ("0", "0", "1"):
        printed("train", *SHORT, "--seed", seed)
    names = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert len(names) == 2
    assert all(name.startswith("digits-2-") for name in names)


def test_every_shipped_method_trains_by_its_short_name(tmp_path: Path, printed) -> None:
    short = ["--epochs", "1", "--validation_size", "0", "--schedule", "none", "--regularizer", "none"]
    for method in ("Standard", "FGSMAT", "PGDAT", "FreeAT", "FastAT"):
        printed("train", "--method", method, *short, "--out", str(tmp_path / method))
        assert Run(tmp_path / method).complete


def test_data_lists_every_source(tmp_path: Path, printed) -> None:
    listed = printed("data", "--root", str(tmp_path))
    for name in ("Digits", "MNIST", "FashionMNIST", "CIFAR10", "CIFAR100", "TinyImageNet", "ImageFolder"):
        assert f"│ {name} " in listed
    assert str(tmp_path / "MNIST/raw") in listed
    assert "│ yes" in next(line for line in listed.splitlines() if line.startswith("│ Digits "))


def test_an_empty_folder_has_no_runs(tmp_path: Path, printed) -> None:
    assert "no runs below" in printed("ls", str(tmp_path))


@pytest.mark.slow
def test_the_demo_shows_what_modes_do_for_the_worst_one(tmp_path: Path, printed) -> None:
    started = time.process_time()
    shown = printed("demo", "--out", str(tmp_path))
    assert time.process_time() - started < 120
    for part in ("PGD-AT", "modes known", "modes discovered", "pgd50, worst mode", "training images", str(tmp_path)):
        assert part in shown

    def worst(way: str, seed: int) -> float:
        measured = json.loads((tmp_path / f"{way}-{seed}" / "evaluation.json").read_text())["attacks"]["pgd50"]
        assert measured["correct"] / measured["total"] > 0.7
        return min(mode["correct"] / mode["total"] for mode in measured["per_mode"].values())

    plain, known, discovered = (
        [worst(way, seed) for seed in (0, 1, 2)] for way in ("pgd-at", "modes-known", "modes-discovered")
    )
    above = sum(one > other for one, other in zip(known, plain, strict=True))
    assert above == 3 and f"modes known: the worst mode under pgd50 is above that of PGD-AT in {above} of 3" in shown
    assert sum(known) - sum(plain) > 0.3 and sum(discovered) > sum(plain)


def seconds_of_plain_steps(steps: int) -> float:
    """Processor time of as many PGD-7 steps as a loop of one's own would make them on MNIST, with the plain layers."""
    stage = [nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten()]
    net = nn.Sequential(nn.Conv2d(1, 16, 4, 2, 1), *stage, nn.Linear(1568, 100), nn.ReLU(), nn.Linear(100, 10))
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    x, y = torch.rand(128, 1, 28, 28), torch.randint(10, (128,))
    started = time.process_time()
    for _ in range(steps):
        x_adv = x
        for _ in range(8):
            x_adv = x_adv.detach().requires_grad_()
            optimizer.zero_grad()
            F.cross_entropy(net(x_adv), y).backward()
            assert x_adv.grad is not None
            x_adv = (x + (x_adv + 0.1 * x_adv.grad.sign() - x).clamp(-0.3, 0.3)).clamp(0, 1)
        optimizer.step()
    return time.process_time() - started


@pytest.mark.slow
def test_one_epoch_of_mnist(tmp_path: Path, data_root: Path, printed) -> None:
    run = str(tmp_path / "run")
    plain: list[float] = []
    updates, timing = 0, False

    def time_plain_steps(*_: object) -> None:
        """Five after every 20th update: the load of the machine changes, and both sides have to feel it."""
        nonlocal updates, timing
        if timing:  # a plain step is no update
            return
        updates += 1
        if updates % 20 == 0:
            timing = True
            with torch.random.fork_rng():
                plain.append(seconds_of_plain_steps(5))
            timing = False

    hook = register_optimizer_step_post_hook(time_plain_steps)
    started = time.process_time()
    printed("train", "--config", "mnist", "--epochs", "1", "--data.root", str(data_root), "--out", run)
    seconds = time.process_time() - started - sum(plain)
    hook.remove()
    assert torch.get_num_threads() == 1
    assert updates == 461  # 59,000 images in batches of 128
    # Seen: 0.75 and 0.78 on an AMD EPYC, 0.90 to 0.93 on an Intel Xeon with AMX.
    bar = 0.97 if torch.cpu._is_amx_tile_supported() else 0.85
    assert seconds < bar * updates * sum(plain) / (5 * len(plain))
    printed("evaluate", run, "--attacks", "clean", "pgd10", "--n", "1000")
    measured = json.loads((tmp_path / "run/evaluation.json").read_text())["attacks"]["pgd10"]
    assert measured["total"] == 1000
    assert measured["correct"] >= 300  # chance is 100


def test_cifar_images_from_a_folder(tmp_path: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch, printed) -> None:
    folder = data_root / "cifar10-images"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    monkeypatch.setenv("PROTOAT_CACHE", str(tmp_path / "cache"))
    for split, count in (("train", 20), ("test", 10)):
        for source in (folder / split).iterdir():
            target = tmp_path / "pictures" / split / source.name
            target.mkdir(parents=True)
            for path in sorted(source.iterdir())[:count]:
                shutil.copy(path, target)
    own = ["--data", "ImageFolder", "--data.path", str(tmp_path / "pictures"), "--validation_size", "0"]
    small = ["--model.width", "0.125", "--epochs", "1", "--method.steps", "1"]
    run = str(tmp_path / "run")
    printed("train", "--config", "cifar10-2", *own, *small, "--out", run)
    shown = printed("evaluate", run, "--attacks", "clean", "fgsm")
    assert "fgsm" in shown
    measured = json.loads((tmp_path / "run/evaluation.json").read_text())["attacks"]["clean"]
    assert measured["per_class"].keys() == {"airplane-deer", "dog-truck"}
    assert [mode["total"] for mode in measured["per_mode"].values()] == [10] * 10


def test_train_can_be_called_from_a_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_main([*SHORT, "--out", str(tmp_path / "run")])
    assert "files are in" in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_train_one_run_and_leave_in_order(tmp_path: Path, in_two_processes: Callable[..., None]) -> None:
    out = tmp_path / "run"
    in_two_processes("-m", "protoat", "train", *SHORT, "--out", str(out), anew=True)
    stored = Run(out)
    assert stored.complete
    assert stored.facts["sessions"][0]["processes"] == 2


@pytest.mark.slow
def test_a_refusal_ends_every_process(tmp_path: Path, in_two_processes: Callable[..., None], printed) -> None:
    out = tmp_path / "run"
    printed("train", *SHORT, "--out", str(out))
    (out / "last.safetensors").unlink()
    facts = json.loads((out / "run.json").read_text())
    edit(out / "run.json", json.dumps(facts | {"train_images": 7}))
    with pytest.raises(AssertionError, match=r"has changed since \(train_images 7 then, 1247 now\)") as caught:
        in_two_processes("-m", "protoat", "train", *SHORT, "--out", str(out), anew=True)
    assert "[2, 2] == [0, 0]" in str(caught.value)  # both ended by themselves
