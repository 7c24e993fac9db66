"""What a subject holds, and how the options of a command name one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from protoat.data import Digits, regroup
from protoat.recipes.reading import read_recipe
from protoat.runs.run import Run
from protoat.runs.subject import subject_of_model, with_prototype_head
from protoat.runs.subject_options import subject_of, subject_parser
from protoat.runs.train import train
from protoat.threats import L2, Linf
from protoat.training.nested import part

SHORT = ["--epochs", "1", "--validation_size", "50", "--method", "Standard", "--schedule", "none"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(read_recipe("digits-2", [*SHORT, "--evaluation_threat.eps", "0.05"]), folder, progress=False)
    return folder


@pytest.mark.parametrize("weights", ["best", "last"])
def test_a_run_brings_data_threat_and_trained_prototypes(run: Path, weights: str) -> None:
    from safetensors.torch import load_file

    subject = Run(run).subject(weights)
    assert (subject.name, subject.folder, subject.threat) == (str(run), run, Linf(0.05))
    assert torch.equal(subject.data.labels, regroup(Digits().load("test"), 2).labels)
    assert not any(module.training for module in (*subject.model.modules(), *subject.regularizer.modules()))
    stored = part("objective.regularizer", load_file(run / f"{weights}.safetensors"))
    assert torch.equal(subject.regularizer.prototypes, stored["prototypes"])
    assert subject.identity["weights"] == f"{weights}.safetensors"
    assert subject.identity["data"] == "Digits test"


def test_without_a_regularizer_there_is_none(tmp_path: Path) -> None:
    train(read_recipe("digits-2", [*SHORT, "--regularizer", "none"]), tmp_path / "run", progress=False)
    subject = Run(tmp_path / "run").subject()
    assert subject.regularizer is None
    with pytest.raises(ValueError, match="no prototypes to predict by"):
        with_prototype_head(subject)


def test_identity_tells_data_and_weights_apart(tmp_path: Path) -> None:
    def identity(groups: int | None = None, **options: object) -> dict:
        return subject_of_model(
            "protoat.models:LeNet", data=Digits(), groups=groups, threat=L2(1), folder=tmp_path, **options
        ).identity

    assert identity() == identity()
    assert identity()["data_sha256"] != identity(groups=2)["data_sha256"]
    assert identity(mean=[0.5]) == identity() | {"mean": [0.5], "std": None}


def test_the_digest_sees_images_labels_and_modes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = regroup(Digits().load("test"), 2)
    swapped = torch.where(data.modes < 2, 1 - data.modes, data.modes)
    digests = set()
    for other in (
        data,
        replace(data, images=255 - data.images),
        replace(data, modes=swapped),
        replace(data, labels=1 - data.labels, modes=9 - data.modes),
        replace(data, mode_names=tuple("abcdefghij")),
        data.subset(torch.arange(499)),
    ):
        monkeypatch.setattr(Digits, "load", lambda self, split, other=other: other)
        subject = subject_of_model("protoat.models:LeNet", data=Digits(), threat=L2(1), folder=tmp_path)
        digests.add(subject.identity["data_sha256"])
    assert len(digests) == 6


def test_normalisation_stands_in_front(tmp_path: Path) -> None:
    options = {"data": Digits(), "threat": Linf(0.1), "folder": tmp_path}
    plain = subject_of_model("protoat.models:LeNet", **options).model
    normalised = subject_of_model("protoat.models:LeNet", mean=[0.5], std=[0.25], **options).model
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(normalised(x).logits, plain((x - 0.5) / 0.25).logits)


MODEL = ["--model", "protoat.models:LeNet", "--data", "Digits", "--threat.eps", "8/255", "--out", "somewhere"]


def test_options_name_a_run_or_a_model(run: Path, tmp_path: Path) -> None:
    parser = subject_parser("protoat evaluate")
    of_run = subject_of(parser, parser.parse_args([str(run), "--weights", "last", "--threat.norm", "l2", "--out", "x"]))
    assert (of_run.identity["weights"], of_run.threat, of_run.folder) == ("last.safetensors", L2(0.05), Path("x"))
    by_prototypes = subject_of(parser, parser.parse_args([str(run), "--head", "prototypes"]))
    assert by_prototypes.folder == run / "prototypes"
    assert by_prototypes.identity["head"] == "prototypes"
    there = ["--head", "prototypes", "--out", str(tmp_path / "there")]
    assert subject_of(parser, parser.parse_args([str(run), *there])).folder == tmp_path / "there"
    of_model = subject_of(parser, parser.parse_args([*MODEL, "--groups", "2", "--mean", "0.5"]))
    assert (of_model.threat, of_model.folder, of_model.data.num_classes) == (Linf("8/255"), Path("somewhere"), 2)
    assert isinstance(of_model.model, nn.Sequential)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "name one thing to judge"),
        (["RUN", *MODEL], "name one thing to judge"),
        (["nowhere"], "nowhere is not a run folder"),
        (["RUN", "--data", "Digits"], "--data goes with --model; a run brings its own"),
        (["RUN", "--mean", "0.5"], "--mean goes with --model"),
        (["RUN", "--weights", "first"], "--weights 'first' of a run is unknown; write best or last"),
        (["RUN", "--threat.eps", "8"], "eps=8 is outside"),
        (["--model", "a:b"], "--model also needs --data, --threat.eps, --out"),
        (MODEL[:-2], "--model also needs --out"),
        ([*MODEL, "--data", "Digit"], "data 'Digit' is unknown; did you mean 'Digits'"),
        ([*MODEL, "--threat.eps", "8"], "eps=8 is outside"),
        ([*MODEL, "--groups", "3"], "groups=3 does not divide 10 classes"),
        ([*MODEL, "--std", "0"], "must be positive"),
        ([*MODEL, "--head", "prototypes"], "no prototypes to predict by"),
        ([*MODEL, "--weights", "nowhere.pt"], "there is no weights file nowhere.pt"),
        ([*MODEL, "--threat.nrm", "l2"], "did you mean '--threat.norm'"),
    ],
)
def test_options_that_name_nothing_are_refused(run: Path, args: list[str], message: str) -> None:
    parser = subject_parser("protoat evaluate")
    with pytest.raises(ValueError, match=message):
        subject_of(parser, parser.parse_args([str(run) if arg == "RUN" else arg for arg in args]))
