"""``evaluation.json``: what is added, and when it starts anew."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from protoat.attacks import FGSM, PGD
from protoat.data import Digits
from protoat.experiments.measure import evaluate_run, named_attacks
from protoat.experiments.recipe import read_recipe
from protoat.experiments.run import train
from protoat.types import Linf

SHORT = ["--epochs", "1", "--validation_size", "50", "--method.steps", "1", "--schedule", "none", "--batch_size", "256"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(read_recipe("digits-2", [*SHORT, "--evaluation_threat.eps", "0.05"]), folder, progress=False)
    return folder


def test_names_paths_and_yaml_all_give_attacks() -> None:
    found = named_attacks(
        ["clean", "pgd10", "protoat.attacks.FGSM", "{class_path: PGD, init_args: {steps: 3, step_size: 2/255}}"],
        Linf("8/255"),
    )
    assert list(found) == ["clean", "pgd10", "FGSM", "PGD"]
    assert found["clean"] is None
    assert isinstance(found["FGSM"], FGSM)
    assert isinstance(found["PGD"], PGD)
    assert (found["PGD"].steps, found["PGD"].step_size, found["PGD"].threat.eps) == (3, 2 / 255, 8 / 255)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["pdg10"], "did you mean 'pgd10'"),
        (["pgd10", "pgd10"], "two attacks are called 'pgd10'"),
        (["no.such.Attack"], "No module named 'no'"),
        (["protoat.data.MNIST"], "is no Attack"),
        (["{class_path: PGD, init_args: {stepz: 3}}"], "did you mean 'steps'"),
    ],
)
def test_what_is_no_attack_is_refused(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        named_attacks(names, Linf("8/255"))


def test_attacks_on_the_same_images_add_up(trained: Path) -> None:
    first = evaluate_run(trained, ["clean", "fgsm"], limit=100)
    evaluate_run(trained, ["pgd2", "fgsm@0.1"], limit=100, batch_size=30)
    content = json.loads((trained / "evaluation.json").read_text())
    assert list(content["attacks"]) == ["clean", "fgsm", "pgd2", "fgsm@0.1"]
    assert content["subject"]["images"] == 100
    assert content["attacks"]["clean"]["correct"] == first["clean"].count.correct
    assert content["attacks"]["pgd2"]["batch_size"] == 30
    radii = {name: entry["parameters"].get("eps") for name, entry in content["attacks"].items()}
    assert radii == {"clean": None, "fgsm": 0.05, "pgd2": 0.05, "fgsm@0.1": 0.1}
    assert not list(trained.glob(".*"))


def test_other_images_or_weights_start_the_file_anew(trained: Path) -> None:
    evaluate_run(trained, ["clean", "fgsm"], limit=60)
    evaluate_run(trained, ["clean"], limit=50)
    assert list(json.loads((trained / "evaluation.json").read_text())["attacks"]) == ["clean"]
    evaluate_run(trained, ["fgsm"], limit=50)
    evaluate_run(trained, ["pgd2"], limit=50, weights="last")
    content = json.loads((trained / "evaluation.json").read_text())
    assert list(content["attacks"]) == ["pgd2"]


def test_an_error_leaves_the_file_as_it_was(trained: Path) -> None:
    evaluate_run(trained, ["clean"], limit=50)
    before = (trained / "evaluation.json").read_bytes()
    with pytest.raises(ValueError, match="unknown"):
        evaluate_run(trained, ["clean", "pdg"], limit=50)
    assert (trained / "evaluation.json").read_bytes() == before


def test_other_classes_than_those_of_training_are_refused(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renamed = replace(read_recipe("digits-2").data.load("test"), class_names=tuple("abcdefghij"))
    monkeypatch.setattr(Digits, "load", lambda self, split: renamed)
    with pytest.raises(ValueError, match=r"was trained on classes \['0-4', '5-9'\], and the data now has"):
        evaluate_run(trained, ["clean"])
