"""Divergences between predictions, against loops written from their equations."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from protoat.functional.consistency import (
    boosted_cross_entropy,
    jensen_shannon,
    kl_divergence,
    misclassification_kl,
    uniform_cross_entropy,
)

CLEAN = torch.tensor([[2.0, 1.0, 0.5, -1.0], [0.0, 3.0, 1.0, 2.0]])
ADV = torch.tensor([[1.0, 1.5, 0.5, -1.0], [0.0, 3.0, 1.0, 1.0]])
LABELS = torch.tensor([0, 3])


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    powers = [math.exp(value - top) for value in row]
    return [power / sum(powers) for power in powers]


def slow_kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def slow_js(ps: list[list[float]], floor: float) -> float:
    mixture = [min(1.0, max(floor, sum(p[c] for p in ps) / len(ps))) for c in range(len(ps[0]))]
    return sum(slow_kl(p, mixture) for p in ps) / len(ps)


def slow_boosted(row: list[float], y: int) -> float:
    p = softmax(row)
    rival = max(value for c, value in enumerate(p) if c != y)
    return -math.log(p[y]) - math.log(1.0001 - rival + 1e-12)


def slow_misclassification(clean: list[float], adv: list[float], y: int) -> float:
    p, q = softmax(clean), softmax(adv)
    divergence = sum(a * (math.log(a) - math.log(b + 1e-12)) for a, b in zip(p, q, strict=True) if a > 0)
    return divergence * (1.0000001 - p[y])


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    size, classes = draw(st.integers(1, 4)), draw(st.integers(2, 5))
    row = st.lists(st.floats(-15, 15), min_size=classes, max_size=classes)
    rows = st.lists(row, min_size=size, max_size=size).map(lambda values: torch.tensor(values, dtype=torch.float64))
    labels = st.lists(st.integers(0, classes - 1), min_size=size, max_size=size).map(torch.tensor)
    return draw(rows), draw(rows), draw(labels)


@given(batches())
@settings(max_examples=60)
def test_against_slow_loops(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    clean, adv, y = batch
    rows = list(zip(clean.tolist(), adv.tolist(), y.tolist(), strict=True))
    expected = {
        "kl": [slow_kl(softmax(p), softmax(q)) for p, q, _ in rows],
        "js": [slow_js([softmax(p), softmax(q)], 1e-7) for p, q, _ in rows],
        "bce": [slow_boosted(q, label) for _, q, label in rows],
        "mart": [slow_misclassification(p, q, label) for p, q, label in rows],
        "uniform": [-sum(math.log(value) for value in softmax(p)) / len(p) for p, _, _ in rows],
    }
    actual = {
        "kl": kl_divergence(clean, adv),
        "js": jensen_shannon(clean, adv),
        "bce": boosted_cross_entropy(adv, y),
        "mart": misclassification_kl(clean, adv, y),
        "uniform": uniform_cross_entropy(clean),
    }
    for name, values in expected.items():
        torch.testing.assert_close(
            actual[name], torch.tensor(values, dtype=torch.float64), rtol=1e-9, atol=1e-9, msg=name
        )


def test_golden_values() -> None:
    torch.testing.assert_close(kl_divergence(CLEAN, ADV), torch.tensor([0.223177, 0.074671]), rtol=0, atol=1e-6)
    assert boosted_cross_entropy(ADV, LABELS).mean().item() == pytest.approx(2.790202, abs=1e-6)
    assert misclassification_kl(CLEAN, ADV, LABELS).mean().item() == pytest.approx(0.072071, abs=1e-6)


def test_the_direction_of_the_divergence_is_from_clean_to_adversarial() -> None:
    certain, undecided = torch.tensor([[20.0, 0.0]]), torch.zeros(1, 2)
    assert kl_divergence(certain, undecided).item() == pytest.approx(math.log(2), abs=1e-6)
    assert kl_divergence(undecided, certain).item() == pytest.approx(10 - math.log(2), abs=1e-5)


def test_jensen_shannon_is_symmetric_bounded_and_zero_for_equal_predictions() -> None:
    views = torch.randn(3, 16, 5, dtype=torch.float64) * 3
    value = jensen_shannon(*views)
    torch.testing.assert_close(value, jensen_shannon(views[2], views[0], views[1]))
    assert bool((value > 0).all() and (value <= math.log(3)).all())
    torch.testing.assert_close(jensen_shannon(views[0], views[0], views[0]), torch.zeros(16, dtype=torch.float64))
    torch.testing.assert_close(jensen_shannon(views[0]), torch.zeros(16, dtype=torch.float64))


def test_jensen_shannon_keeps_the_mixture_above_its_floor() -> None:
    sure = torch.tensor([[40.0, 0.0]], dtype=torch.float64)
    ps = [softmax(sure[0].tolist())] * 2
    assert jensen_shannon(sure, sure, floor=0.01).item() == pytest.approx(slow_js(ps, 0.01), abs=1e-12)
    assert slow_js(ps, 0.01) != pytest.approx(slow_js(ps, 1e-7), abs=1e-18)


@pytest.mark.parametrize("term", ["kl", "js", "mart", "bce", "uniform"])
def test_gradients_are_right_and_flow_into_every_argument(term: str) -> None:
    p = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    q = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0, 3, 1])
    functions = {
        "kl": (kl_divergence, (p, q)),
        "js": (jensen_shannon, (p, q)),
        "mart": (lambda a, b: misclassification_kl(a, b, y), (p, q)),
        "bce": (lambda a: boosted_cross_entropy(a, y), (p,)),
        "uniform": (uniform_cross_entropy, (p,)),
    }
    function, arguments = functions[term]
    assert torch.autograd.gradcheck(function, arguments)
    for gradient in torch.autograd.grad(function(*arguments).sum(), arguments):
        assert bool((gradient.abs().sum(1) > 0).all())


def test_values_and_gradients_stay_finite_where_probabilities_underflow() -> None:
    clean = torch.tensor([[200.0, 0.0, -200.0]], requires_grad=True)
    adv = torch.tensor([[-200.0, 0.0, 200.0]], requires_grad=True)
    for y in (0, 1, 2):
        label = torch.tensor([y])
        terms = [
            kl_divergence(clean, adv),
            jensen_shannon(clean, adv),
            boosted_cross_entropy(adv, label),
            misclassification_kl(clean, adv, label),
            uniform_cross_entropy(clean),
        ]
        total = torch.stack(terms).sum()
        assert bool(total.isfinite())
        assert all(bool(gradient.isfinite().all()) for gradient in torch.autograd.grad(total, [clean, adv]))


def test_half_precision_is_computed_in_float32() -> None:
    p, q, y = CLEAN.bfloat16(), ADV.bfloat16(), LABELS
    pairs = [
        (kl_divergence(p, q), kl_divergence(p.float(), q.float())),
        (jensen_shannon(p, q), jensen_shannon(p.float(), q.float())),
        (boosted_cross_entropy(q, y), boosted_cross_entropy(q.float(), y)),
        (misclassification_kl(p, q, y), misclassification_kl(p.float(), q.float(), y)),
        (uniform_cross_entropy(p), uniform_cross_entropy(p.float())),
    ]
    for half, full in pairs:
        assert half.dtype == torch.float32
        assert torch.equal(half, full)


def test_the_rival_is_the_strongest_wrong_class_also_with_two_classes() -> None:
    logits = torch.tensor([[5.0, 1.0], [1.0, 5.0]])
    right, wrong = boosted_cross_entropy(logits, torch.tensor([0, 0])).tolist()
    assert right == pytest.approx(slow_boosted([5.0, 1.0], 0), abs=1e-5)
    assert wrong == pytest.approx(slow_boosted([1.0, 5.0], 0), abs=1e-4)
