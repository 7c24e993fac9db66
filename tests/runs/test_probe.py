"""Linear evaluation: the heads it fits, what it leaves alone, and its record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from protoat.data import Digits, ImageData
from protoat.evaluation import evaluate
from protoat.models import LeNet
from protoat.recipes.reading import read_recipe
from protoat.runs.build import build
from protoat.runs.probe import LinearProbe, probe_run
from protoat.runs.run import Run
from protoat.runs.train import train
from protoat.threats import Linf

SHORT = ["--epochs", "2", "--batch_size", "433", "--method.steps", "1", "--schedule", "none"]


def few(split: Literal["train", "test"]) -> ImageData:
    """Digits by which heads are soon fitted."""
    return Digits().load(split).subset(torch.arange(300))


@pytest.fixture(scope="module")
def acl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("acl")
    train(read_recipe("digits-acl", SHORT), out, progress=False)
    return out


def test_the_clean_head_is_that_of_logistic_regression() -> None:
    data, test = Digits().load("train"), Digits().load("test")
    probe = LinearProbe(LeNet(10, 1, 8), data)
    probe.fit_clean(data)
    x, held_out = (((probe.embed(images) - probe.mean) / probe.std).double() for images in (data, test))
    torch.testing.assert_close(x.mean(0), torch.zeros(100).double(), atol=1e-5, rtol=0)
    expected = LogisticRegression(C=1 / (1e-4 * len(data)), tol=1e-8, max_iter=5000).fit(x.numpy(), data.labels.numpy())
    probabilities = probe.eval()(test.images.float() / 255).logits.softmax(1).detach()
    torch.testing.assert_close(
        probabilities, torch.tensor(expected.predict_proba(held_out.numpy())).float(), atol=2e-3, rtol=0
    )


def test_only_the_head_learns_and_it_learns_to_withstand() -> None:
    data = few("train")
    encoder = LeNet(10, 1, 8)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    probe = LinearProbe(encoder, data)
    probe.fit_clean(data)
    clean = probe.head.weight.clone()
    state = torch.get_rng_state()
    probe.fit_robust(data, Linf(0.1), updates=5, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert not torch.equal(probe.head.weight, clean)
    again = LinearProbe(encoder, data)
    again.fit_clean(data)
    again.fit_robust(data, Linf(0.1), updates=5, seed=3)
    assert torch.equal(again.head.weight, probe.head.weight)


def test_a_run_is_compared_with_its_own_first_weights(acl: Path) -> None:
    record = probe_run(acl, updates=30, limit=300, attacks=["clean", "pgd5"])
    assert json.loads((acl / "probe.json").read_text()).items() >= record.to_json().items()
    again = Run(acl).probe
    assert again is not None and again.to_json() == record.to_json()
    assert record.subject.more["branch"] == "adv"
    counts = {
        (encoder, head, attack): found.count.correct
        for encoder, heads in record.encoders.items()
        for head, attacks in heads.items()
        for attack, found in attacks.items()
    }
    assert len(counts) == 8
    for encoder in ("trained", "random"):
        assert counts[encoder, "standard", "clean"] > 200  # chance is 30
        assert counts[encoder, "robust", "pgd5"] > counts[encoder, "standard", "pgd5"]
    first = build(read_recipe("digits-acl", SHORT)).model
    probe = LinearProbe(first, Digits().load("train"))
    probe.fit_clean(Digits().load("train"))
    assert record.encoders["random"]["standard"]["clean"].count.correct == _correct(probe)


def test_attacks_are_added_to_those_of_the_same_heads(acl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protoat.runs.probe.load_images", lambda _, split: few(split))
    probe_run(acl, updates=1, limit=50, attacks=["pgd1"])
    both = probe_run(acl, updates=1, limit=50, attacks=["fgsm"])
    assert json.loads((acl / "probe.json").read_text()).items() >= both.to_json().items()
    for heads in both.encoders.values():
        assert all(list(attacks) == ["clean", "pgd1", "fgsm"] for attacks in heads.values())
    other = probe_run(acl, updates=1, limit=40, attacks=["fgsm"])
    assert list(other.encoders["random"]["robust"]) == ["clean", "fgsm"]


def _correct(probe: LinearProbe) -> int:
    return evaluate(probe, Digits().load("test"), {"clean": None}, limit=300)["clean"].count.correct


def test_each_branch_has_a_probe_of_its_own(acl: Path) -> None:
    data = few("train")
    heads = []
    for branch in ("adv", "clean"):
        probe = LinearProbe(Run(acl).network(branch=branch).model, data)  # type: ignore[arg-type]
        probe.fit_clean(data)
        heads.append(probe.head.weight)
    assert not torch.allclose(*heads)


def test_a_trained_run_can_be_probed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protoat.runs.probe.load_images", lambda _, split: few(split))
    short = ["--epochs", "1", "--method.steps", "1", "--schedule", "none", "--regularizer", "none"]
    train(read_recipe("digits", short), tmp_path, progress=False)
    record = probe_run(tmp_path, updates=1, limit=100, attacks=["clean"])
    assert (record.subject.weights, record.subject.more["branch"]) == ("best.safetensors", None)


def test_unknown_attacks_are_refused_before_anything_is_fitted(acl: Path) -> None:
    with pytest.raises(ValueError, match="pdg20"):
        probe_run(acl, attacks=["pdg20"])
