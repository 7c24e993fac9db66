"""Adversarial training behind scikit-learn's interface: its own checks, its tools, and what the figures mean."""

from __future__ import annotations

import copy
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

import protoat as pa

PIXELS, DIGIT = load_digits(return_X_y=True)
PIXELS, DIGIT = PIXELS[:160], DIGIT[:160]
HIGH = DIGIT >= 5
ROWS = {"image_shape": (1, 8, 8), "pixel_range": (0, 16)}
QUICK: dict[str, Any] = {
    "threat": pa.Linf(0.05),
    "method": pa.FGSMAT,
    "epochs": 3,
    "batch_size": 32,
    "lr": 0.1,
    "random_state": 0,
}

# No check is waived. Their tables lie far outside of [0, 1], which is refused unless `pixel_range` says so; none of
# them has images, whose forms are tested below. Attacks at a radius that matters would cost the accuracy they ask for.
CHECKED = pa.RobustClassifier(
    threat=pa.Linf(1e-4), method=pa.FGSMAT, epochs=6, batch_size=16, lr=0.1, pixel_range=(-200, 200)
)


@pytest.mark.slow
@parametrize_with_checks([CHECKED])
def test_the_checks_of_scikit_learn_pass(estimator: Any, check: Any) -> None:
    check(estimator)


def fitted(**options: Any) -> pa.RobustClassifier:
    return pa.RobustClassifier(**{**QUICK, **ROWS, **options}).fit(PIXELS, DIGIT)


@pytest.fixture(scope="module")
def classifier() -> pa.RobustClassifier:
    return fitted(epochs=6)


def test_it_learns(classifier: pa.RobustClassifier) -> None:
    assert classifier.score(PIXELS, DIGIT) > 0.9
    proba = classifier.predict_proba(PIXELS)
    assert proba.shape == (160, 10)
    np.testing.assert_allclose(proba.sum(1), 1)
    assert (classifier.predict(PIXELS) == classifier.classes_[proba.argmax(1)]).all()
    assert isinstance(classifier.model_, pa.LeNet)


def test_training_against_an_adversary_pays() -> None:
    plain, robust = (fitted(method=method, threat=pa.Linf(0.1), epochs=5) for method in (pa.Standard, None))
    assert robust.robust_score(PIXELS, DIGIT, "pgd5") > plain.robust_score(PIXELS, DIGIT, "pgd5") + 0.1


def test_the_robust_score_of_a_linear_network_is_the_exact_one() -> None:
    random = np.random.default_rng(0)
    X = random.uniform(0.4, 0.6, (200, 4))  # so far from black and white that the box does not matter
    y = X @ [1, -1, 0.5, 0] + 0.05 * random.normal(size=200) > 0.25
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    options = {"method": pa.Standard, "threat": pa.Linf(0.02), "epochs": 20, "lr": 2.0}
    classifier = pa.RobustClassifier(network, **QUICK | options).fit(X, y)
    weight, bias = (value.detach().double().numpy() for value in classifier.model_[1].parameters())
    margins = (X @ (weight[1] - weight[0]) + bias[1] - bias[0]) * np.where(y, 1, -1)
    reach = 0.02 * np.abs(weight[1] - weight[0]).sum()
    exact = (margins > reach).mean()
    assert 0.05 < exact < (margins > 0).mean() - 0.05
    assert classifier.score(X, y) == (margins > 0).mean()
    assert abs(classifier.robust_score(X, y) - exact) <= 1 / 200


def test_it_works_in_a_pipeline_and_in_a_search() -> None:
    robust = pa.RobustClassifier(**QUICK, image_shape=(1, 8, 8))
    pipeline = make_pipeline(MinMaxScaler(clip=True), robust)
    modes = {"robustclassifier__modes": DIGIT}
    assert cross_val_score(pipeline, PIXELS, HIGH, cv=2, params=modes).min() > 0.5
    by_attack = cross_val_score(
        pa.RobustClassifier(**QUICK, **ROWS), PIXELS, HIGH, cv=2, scoring=lambda c, X, y: c.robust_score(X, y, "fgsm")
    )
    assert ((by_attack > 0) & (by_attack < 1)).all()
    search = GridSearchCV(pipeline, {"robustclassifier__lr": [1e-6, 0.1]}, cv=2).fit(PIXELS, HIGH)
    assert search.best_params_ == {"robustclassifier__lr": 0.1}


def test_known_modes_get_a_prototype_each_and_are_reported() -> None:
    classifier = pa.RobustClassifier(**QUICK, **ROWS).fit(PIXELS, HIGH, modes=DIGIT)
    head = pa.classifier_head(classifier.model_)
    assert isinstance(head, pa.MultiPrototypeHead)
    assert head.active.sum(1).tolist() == [5, 5]
    report = classifier.robust_report(PIXELS, HIGH, "fgsm", modes=DIGIT)
    assert set(report["fgsm"].per_mode) == set(map(str, range(10)))
    assert set(report["fgsm"].per_class) == {"False", "True"}
    assert report.worst_case.accuracy == classifier.robust_score(PIXELS, HIGH, "fgsm")


def test_modes_are_discovered_in_a_network_of_logits() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2))
    modes = partial(pa.DiscoveredModes, clusters=3)
    classifier = pa.RobustClassifier(network, modes=modes, **QUICK, **ROWS).fit(PIXELS, HIGH)
    assert pa.classifier_head(classifier.model_).active.sum(1).tolist() == [3, 3]
    assert isinstance(network[3], nn.Linear)  # the user's own is copied


def test_a_regularizer_finds_embeddings() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    classifier = fitted(network=network, regularizer=partial(pa.SoftTriple, prototypes_per_class=2))
    assert classifier.result_.metrics[-1]["metric"] > 0
    assert classifier.score(PIXELS, DIGIT) > 0.5


def test_images_come_in_every_form_of_arrays(classifier: pa.RobustClassifier) -> None:
    bytes_ = (PIXELS * 15).astype(np.uint8).reshape(-1, 8, 8)
    forms = (bytes_, bytes_[:, None], bytes_ / 255, (bytes_ / 255).astype(np.float32)[:, None], torch.tensor(bytes_))
    found = [pa.RobustClassifier(**QUICK).fit(X, DIGIT).predict_proba(X) for X in forms]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-5)
    colour = np.repeat(bytes_[:, None], 3, axis=1)
    assert pa.RobustClassifier(**QUICK).fit(colour, DIGIT).image_shape_ == (3, 8, 8)


def test_the_same_seed_gives_the_same_network_and_nothing_of_the_callers_changes() -> None:
    builder = partial(pa.LeNet, mean=[0.3], std=[0.3])
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    states = [fitted(network=builder, epochs=1, random_state=seed).model_.state_dict() for seed in (0, 0, 1)]
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not all(torch.equal(value, states[2][name]) for name, value in states[0].items())


def test_a_clone_has_the_same_arguments() -> None:
    classifier = pa.RobustClassifier(pa.LeNet, threat=pa.L2(0.5), modes="known", pixel_range=(0, 16))
    copied = clone(classifier)
    assert copied.get_params() == classifier.get_params()
    assert copied.set_params(epochs=3).epochs == 3


@pytest.mark.parametrize(
    ("X", "y", "options", "message"),
    [
        (PIXELS, DIGIT, {}, r"X lies in \[0, 16\], expected \[0, 1\]; scale it, or write pixel_range"),
        (PIXELS, DIGIT, {"pixel_range": (16, 16)}, "has no extent"),
        (PIXELS, DIGIT, {"image_shape": (1, 8, 9)}, r"image_shape=\(1, 8, 9\) does not fit X with 64 features"),
        (np.zeros((9, 8, 8, 3)), DIGIT[:9], {}, r"write X.transpose\(0, 3, 1, 2\)"),
        (np.zeros((9, 1, 2, 8, 3)), DIGIT[:9], {}, "has the shape"),
        (np.zeros((9, 4, 8)), DIGIT[:9], {"network": pa.LeNet}, "images are 4x8, and a builder is told one size"),
        (PIXELS / 16, DIGIT * 0, {}, "y has one class"),
        (
            PIXELS.reshape(-1, 8, 8) / 16,
            DIGIT,
            {"image_shape": (3, 8, 8)},
            r"does not fit X with .* \(1, 8, 8\); leave",
        ),
        (
            PIXELS.reshape(-1, 1, 8, 8) / 16,
            DIGIT,
            {"image_shape": (1, 4, 16)},
            r"image_shape=\(1, 4, 16\) does not fit",
        ),
        (PIXELS / 16, DIGIT, {"modes": "discovered", "epochs": 1}, "epochs=1 ends before modes are disc.* epochs=2 or"),
        (PIXELS / 16, DIGIT, {"modes": "some"}, "modes='some' is unknown"),
        (PIXELS / 16, DIGIT, {"modes": "known"}, "no class of the images has two modes"),
        (PIXELS / 16, DIGIT, {"threat": 0.1}, "threat"),
        (PIXELS / 16, DIGIT, {"epochs": 0}, "epochs=0"),
        (PIXELS / 16, DIGIT, {"batch_size": 0}, "batch_size=0"),
        (PIXELS / 16, DIGIT, {"lr": -1}, "lr=-1"),
        (PIXELS / 16, DIGIT, {"network": lambda num_classes: num_classes}, "network"),
    ],
)
def test_what_cannot_be_is_said_in_fit(X: Any, y: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises((pa.UserError, TypeError), match=message):
        pa.RobustClassifier(**options).fit(X, y)


def test_other_images_and_labels_than_those_of_fit_are_refused(classifier: pa.RobustClassifier) -> None:
    with pytest.raises(pa.UserError, match=r"y has the label 11, which was not there in fit"):
        classifier.robust_score(PIXELS[:2], [1, 11])
    images = pa.RobustClassifier(**QUICK | {"epochs": 1}).fit(PIXELS.reshape(-1, 8, 8) / 16, DIGIT)
    with pytest.raises(pa.UserError, match=r"images of shape \(1, 8, 9\), and was fitted on \(1, 8, 8\)"):
        images.predict(np.zeros((2, 8, 9)))


def test_a_network_that_broke_predicts_nothing(classifier: pa.RobustClassifier) -> None:
    broken = copy.deepcopy(classifier)
    for value in broken.model_.parameters():
        value.data.fill_(torch.nan)
    for asked in (broken.predict, broken.predict_proba, lambda X: broken.robust_score(X, DIGIT[:5])):
        with pytest.raises(pa.UserError, match="the model's logits are not finite"):
            asked(PIXELS[:5])


def test_an_image_shape_that_images_have_is_no_mistake() -> None:
    images = pa.RobustClassifier(**QUICK | {"epochs": 1}, image_shape=(1, 8, 8)).fit(
        PIXELS.reshape(-1, 8, 8) / 16, DIGIT
    )
    assert images.predict(PIXELS[:3].reshape(-1, 8, 8) / 16).shape == (3,)


def test_the_program_of_the_guide_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[1] / "docs/your-own.md").read_text()
    (program,) = re.findall(r"```python\n(from sklearn.*?)```", page, re.DOTALL)
    assert program.count("epochs=10") == program.count("X, digit = load_digits(return_X_y=True)") == 1
    quick = program.replace("epochs=10", "epochs=1").replace("1200", "200")
    loaded = "X, digit = load_digits(return_X_y=True)"
    exec(quick.replace(loaded, f"{loaded}; X, digit = X[:260], digit[:260]"), {"pa": pa})
    lines = capsys.readouterr().out.splitlines()
    clean, robust = map(float, lines[0].split())
    assert 0 <= robust <= clean <= 1
    assert len(re.findall(r"\d\.\d+", lines[-1])) == 3
