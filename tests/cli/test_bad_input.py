"""Bad input through the command line: one clear line, exit code 2, nothing half-written."""

from __future__ import annotations

import errno
import textwrap
from pathlib import Path

import pytest
import safetensors.torch
import torch
from PIL import Image

from protoat.cli import main
from protoat.runs.run import Run
from protoat.storage.files import Folder
from protoat.storage.manifest import write_record

SHORT = ["--epochs", "1", "--validation_size", "50", "--method.steps", "1", "--schedule", "none", "--batch_size", "256"]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """Runs a training command that must fail before its folder appears; returns the line it printed."""

    def run(*args: str) -> str:
        out = tmp_path / "out"
        capsys.readouterr()
        assert main(["train", *args, "--out", str(out)]) == 2
        assert not out.exists()
        printed = capsys.readouterr()
        assert printed.out == ""
        lines = printed.err.splitlines()
        assert len(lines) == 1, printed.err
        return lines[0].removeprefix("protoat train: error: ")

    return run


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("--config cifar", "recipe 'cifar' is unknown; did you mean 'cifar10'?"),
        ("--config nowhere.yaml", "there is no recipe file nowhere.yaml"),
        ("--method FreAT", "method 'FreAT' is unknown; did you mean 'FreeAT'?"),
        ("--methd FreeAT", "--methd is unknown; did you mean '--method'?"),
        ("--lr 0.1", "--lr is unknown; did you mean '--optimizer.lr'?"),
        ("--eps 0.1", "--eps is unknown; did you mean '--threat.eps'?"),
        (
            "--config cifar10-2 --data.path clean",
            "data.path is unknown; write one of download, root, or name a class that has it: "
            "--data HFDataset or ImageFolder",
        ),
        ("--method FreeAT --method.replay 4", "method.replay is unknown; did you mean 'replays'?"),
        ("--method FreeAT --method.replays 0", "--method.replays 0 must be at least 1"),
        ("--threat.eps 8", "--threat.eps 8 is outside (0, 1]; pixels are in [0, 1], so write 8/255"),
        ("--threat.eps 0", "--threat.eps 0 is outside (0, 1]"),
        ("--threat.eps -0.1", "--threat.eps -0.1 is outside (0, 1]"),
        ("--groups 3", "--groups 3 does not divide 10 classes; write one of 2, 5, 10, or --groups none"),
        ("--groups superclasses", "--groups superclasses is for CIFAR-100 only"),
        (
            "--validation_size 5000",
            "validation_size: 5000 validation images out of 1297; write a number from 1 to 12",
        ),
        ("--validation_size 1297", "1296, or 0 to hold out none"),
        ("--weight nan", "--weight nan is not valid; expected float"),
        ("--weight .nan", "--weight nan is not a number"),
        ("--weight .inf", "--weight inf is not finite"),
        ("--method.ramp_epochs .inf", "inf is not finite"),
        ("--model torch.nn.Linear", "the model needs in_features, out_features, and"),
        ("--model torch.nn.Identity", "--model Identity returns logits of shape (1, 1, 8, 8)"),
        ("--model torch.nn.ReLU", "--model ReLU returns logits of shape (1, 1, 8, 8)"),
        ("--batch_size 1000000000000", "batch_size=1000000000000 images"),
        ("--augment.padding 1000000000", "padding=1000000000 would take"),
        ("--model ResNet18 --model.width 1000000000", "the network is too large for this machine"),
        ("--model ResNet18 --model.width 1000", "the parameters of the network would take"),
        ("--regularizer.prototypes_per_class 1000000000", "the parameters of the regularizer would take"),
        ("--optimizer.lr .nan", "--optimizer.lr nan is not a number"),
        ("--schedule Cyclic --schedule.lr_min .nan", "--schedule.lr_min nan is not a number"),
        ("--batch_size 0", "--batch_size 0 must be at least 1"),
        (
            "--model ResNet18 --model.width 0.125 --memory_format channels_last",
            "--memory_format channels_last can crash on a CPU: layer ",
        ),
        ("--epochs 0", "--epochs 0 must be at least 1"),
        ("--seed -1", "--seed -1 is outside 0 to 2**63 - 1"),
        ("--seed 9223372036854775808", "--seed 9223372036854775808 is outside"),
        ("--optimizer LBFGS", "LBFGS calls the loss several times"),
        ("--optimizer SparseAdam", "sparse gradients only"),
        ("--clip_norm nan", "--clip_norm nan is not valid"),
        ("--schedule.milestones [0.5,20]", "--schedule.milestones '[0.5, 20]' must be ascending"),
        ("--averaging 2", "decay=2"),
        (
            "--schedule Cyclic --schedule.lr_min 0.5",
            "--optimizer.lr 0.05, the top of the cycle, is below --schedule.lr_min",
        ),
        ("--optimizer.lr 0", "every learning rate of SGD is 0"),
        (
            "--regularizer.prototypes_per_class [1,2,3]",
            "prototypes_per_class has 3 numbers, expected one for each of 2",
        ),
        ("--weight -1", "--weight -1 and --norm_weight 0.005 must not be negative"),
        ("--method TRADES --method.beta -1", "--method.beta -1 must not be negative; 6 is usual"),
        ("--method MART --method.beta -1", "--method.beta -1 must not be negative; 5 is usual"),
        ("--method CFA --method.beta -1", "--method.beta -1 must not be negative; 6 is usual"),
        ("--method DAJAT --method.beta -1", "--method.beta -1 and --method.js_weight 2 must not be negative"),
        ("--method BiaMAT --method.auxiliary Digits --method.beta -1", "--method.beta -1 and"),
        ("--method AWP --method.method TRADES --method.method.beta -1", "beta=-1 must not be negative"),
        ("--method CFA --method.class_eps [0.1,0.1,0.1]", "class_eps has 3 radii for 2 classes; give one for each"),
        ("--method AWP --method.method CFA --method.method.class_eps [0.1]", "class_eps has 1 radii for 2 classes"),
        ("--method BiaMAT", "BiaMAT needs an auxiliary data set: auxiliary=CIFAR100(), or --method.auxiliary CIFAR100"),
        ("--method BiaMAT --method.auxiliary Digit", "method.auxiliary 'Digit' is unknown; did you mean 'Digits'?"),
        ("--method AWP --method.method FreeAT", "AWP cannot wrap FreeAT, whose examples come from the caller's own"),
        ("--method AWP --method.method AWP", "AWP cannot wrap AWP"),
        ("--method AWP --method.method FreAT", "'FreAT' is unknown; did you mean 'FreeAT'?"),
        ("--method AdversarialTraining", "takes an attack, which only a program can give; in a recipe write PGDAT"),
        ("--averaging FAWA --validation_size 0", "averaging FAWA decides by held-out images; write --validation_size"),
        ("--averaging EAM", "averaging 'EAM' is unknown; did you mean 'EMA'?"),
    ],
)
def test_a_choice_that_cannot_be(args: str, message: str, refused) -> None:
    assert message in refused(*args.split())


def test_a_model_that_raises_is_quoted(tmp_path: Path, refused, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raising.py").write_text(
        "from torch import nn\n\ndef net(num_classes: int) -> nn.Module:\n    raise KeyError(f'of {num_classes}')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert "the model cannot be built, it raised KeyError: 'of 2'" in refused("--model", "raising.net")


def test_a_model_of_logits_only_is_wrapped_where_its_embedding_is_needed(
    tmp_path: Path, refused, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "plainly.py").write_text(
        "from torch import nn\n\nclass Plain(nn.Sequential):\n"
        "    def __init__(self, num_classes: int, in_channels: int, image_size: int):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes))\n\n"
        "class Pooled(nn.Sequential):\n"
        "    def __init__(self, num_classes: int, in_channels: int):\n"
        "        super().__init__(nn.Conv2d(in_channels, num_classes, 8), nn.Flatten())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for need in ([], ["--regularizer", "none", "--modes", "known"]):
        line = refused("--model", "plainly.Pooled", *need)
        assert "the model Pooled returns logits only, and its embedding is needed: no one linear layer" in line
        assert "write --regularizer none --modes none, or name a function that wraps it: return" in line
    short = ["--epochs", "1", "--schedule", "none", "--method.steps", "1"]
    runs = {"metric": [], "modes": ["--regularizer", "none", "--modes", "known"], "alone": ["--regularizer", "none"]}
    trust = ["plainly.Plain"]
    for name, options in runs.items():
        out = tmp_path / name
        assert main(["train", "--model", *trust, *options, *short, "--out", str(out)]) == 0
        found = Run(out, trust=trust).model(torch.rand(2, 1, 8, 8))
        assert (found if isinstance(found, torch.Tensor) else found.embedding).shape == (
            2,
            2 if name == "alone" else 64,
        )
        assert main(["evaluate", str(out), "--trust", *trust, "--attacks", "clean", "fgsm"]) == 0
    capsys.readouterr()
    assert main(["pretrain", "--method", "RoCL", "--model", "plainly.Plain", "--out", str(tmp_path / "encoder")]) == 2
    assert "Plain does not say how wide its embedding is; wrap it" in capsys.readouterr().err
    assert not (tmp_path / "encoder").exists()


def test_a_batch_of_one_class_has_no_triplets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The batches are drawn as training goes, so only then can it show.
    args = ["--config", "digits-2", "--regularizer", "TLA", "--batch_size", "2", "--validation_size", "0"]
    assert main(["train", *args, "--out", str(tmp_path / "run")]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1
    assert "have no candidate of another class among 2; triplets need two classes: use a larger batch" in lines[0]
    assert not (tmp_path / "run/last.safetensors").exists()


def test_data_that_is_not_there(refused, tmp_path: Path) -> None:
    line = refused("--config", "mnist", "--data.root", str(tmp_path))
    for needed in (str(tmp_path / "MNIST/raw"), "PROTOAT_DATA", "protoat data MNIST --download"):
        assert needed in line


def picture(path: Path, size: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (size, size), 100).save(path)


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROTOAT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "pictures"
    for name in ("cats", "dogs"):
        for number in range(3):
            picture(folder / name / f"{number}.png")
    return folder


def of_folder(folder: Path) -> list[str]:
    return ["--data", "ImageFolder", "--data.path", str(folder), "--validation_size", "0"]


def test_a_corrupt_image_is_named(refused, pictures: Path) -> None:
    (pictures / "dogs/1.png").write_bytes(b"no image")
    assert str(pictures / "dogs/1.png") in refused(*of_folder(pictures))


def test_images_of_mixed_size(refused, pictures: Path) -> None:
    picture(pictures / "dogs/9.png", size=9)
    line = refused("--config", "digits", *of_folder(pictures))
    assert "9x9" in line
    assert "8x8" in line


def test_an_empty_class_folder(refused, pictures: Path) -> None:
    (pictures / "wolves").mkdir()
    assert f"class folder {pictures / 'wolves'} has no images" in refused(*of_folder(pictures))


def test_labels_outside_range(refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_source.py").write_text(
        textwrap.dedent("""
        import torch
        from protoat.data import Digits, ImageData
        class OffByOne(Digits):
            def read(self, split):
                data = super().read(split)
                return ImageData(data.images, data.labels + 1, data.class_names)
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert "labels outside range: found 1 to 10, expected 0 to 9" in refused("--data", "own_source.OffByOne")


def test_a_folder_that_holds_another_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "run")]
    assert main(["train", *SHORT, *out]) == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    capsys.readouterr()
    assert main(["train", *SHORT, *out, "--seed", "1", "--method.steps", "2"]) == 2
    assert "holds another recipe (method.steps 2, there 1; seed 1, there 0)" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_weights_of_another_architecture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(["train", *SHORT, "--out", str(run)]) == 0
    weights = safetensors.torch.load_file(run / "best.safetensors")
    weights["model.head.weight"] = weights["model.head.weight"][:, :50].clone()
    weights["model.extra"] = weights.pop("model.head.bias")
    write_record(run / "best.safetensors", safetensors.torch.save(weights))
    capsys.readouterr()
    assert main(["evaluate", str(run), "--attacks", "clean"]) == 2
    line = capsys.readouterr().err
    for mismatch in ("missing: head.bias", "unexpected: extra", "head.weight (2, 50) for (2, 100)"):
        assert mismatch in line
    assert not (run / "evaluation.json").exists()


def test_a_checkpoint_of_another_architecture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["train", *SHORT, "--model", "ResNet18", "--model.width", "0.03", "--out", str(tmp_path / "other")]) == 0
    )
    assert main(["train", *SHORT, "--out", str(tmp_path / "run")]) == 0
    (tmp_path / "run/checkpoints").rename(tmp_path / "own-checkpoints")
    (tmp_path / "run/last.safetensors").unlink()
    (tmp_path / "other/checkpoints").rename(tmp_path / "run/checkpoints")
    capsys.readouterr()
    assert main(["train", *SHORT, "--out", str(tmp_path / "run")]) == 2
    line = capsys.readouterr().err
    assert "checkpoints of another run" in line and "embedding_dim 15 there, 100 here" in line


def test_a_full_disk_leaves_the_old_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["train", *SHORT, "--out", str(tmp_path / "run")]
    whole = Folder.write_new

    def full(folder: Folder, name: str, content: bytes) -> None:
        if folder.path.parent.joinpath("00000000").exists():  # the first checkpoint still fits
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(folder, name, content)

    monkeypatch.setattr(Folder, "write_new", full)
    assert main(command) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["00000000"]
    monkeypatch.undo()
    assert main(command) == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["evaluate", "nowhere"], "nowhere is not a run folder: there is no such folder"),
        (["evaluate", "nowhere", "--out", "/proc/x"], "--out /proc/x cannot be written"),
        (["report", "nowhere", "--out", "/proc"], "--out /proc is a folder, expected a file to write"),
        (["show", "nowhere"], "nowhere is not a run folder"),
        (["evaluate"], "name one thing to judge: a run folder, or --model"),
        (["data", "MNITS"], "data set 'MNITS' is unknown; did you mean 'MNIST'?"),
        (["data", "--download"], "name it: protoat data MNIST --download"),
        (["data", "ImageFolder", "--download"], "name one of your own images by --path"),
        (["demo", "--ot", "x"], "--ot is unknown; did you mean '--out'?"),
    ],
)
def test_other_commands_complain_alike(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"protoat {args[0]}: error: ")
    assert message in line
    assert line.count("\n") == 1
