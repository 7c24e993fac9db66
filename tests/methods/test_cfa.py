"""Class-wise calibration: which class gets which radius and which weight, and from which counts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from protoat.functional.norms import norm_of
from protoat.methods import CFA, PGDAT
from protoat.threats import L2, Linf
from protoat.types import Forwards, Output

EPS = 8 / 255
RATES = torch.tensor([0.0, 0.4, 0.9])


def calibrated(**settings: object) -> CFA:
    """With known rates, past its start."""
    method = CFA(Linf(EPS), **settings)
    method.load_state_dict({"correct": torch.zeros(3), "seen": torch.zeros(3), "rates": RATES})
    method.at_epoch(10.0)
    return method


def views(clean: Tensor, adv: Tensor) -> Forwards:
    nothing = torch.zeros(len(clean), 0)
    return Forwards(torch.zeros(len(clean), 1), Output(adv, nothing), Output(clean, nothing))


@pytest.mark.parametrize("beta", [None, 6.0], ids=["AT", "TRADES"])
def test_the_radius_of_an_image_is_that_of_its_class(beta, make_net, make_batch) -> None:
    x, y = make_batch(size=12)
    x_adv = calibrated(beta=beta).examples(make_net(), x, y).x_adv
    radius = (0.5 + RATES[y]) * EPS
    moved = norm_of("linf").distance(x_adv, x)
    assert bool((moved <= radius + 1e-6).all())
    assert bool((moved > 0.9 * radius).all())


def test_the_loss_in_the_form_of_trades_equals_a_loop() -> None:
    clean, adv = torch.randn(7, 3, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 2, 1, 0, 1])
    total = 0.0
    for row, other, label in zip(clean, adv, y, strict=True):
        p, q = row.softmax(0).tolist(), other.softmax(0).tolist()
        b = (0.5 + RATES[label].item()) * 6.0
        divergence = sum(one * math.log(one / two) for one, two in zip(p, q, strict=True))
        total += -math.log(p[label]) / (1 + b) + divergence * b / (1 + b)
    assert calibrated(beta=6.0).loss(views(clean, adv), y).item() == pytest.approx(total / 7, abs=1e-6)


def test_before_its_start_every_class_is_treated_alike(make_net, make_batch) -> None:
    x, y = make_batch()
    method = calibrated()
    method.at_epoch(9.99)
    torch.manual_seed(3)
    ours = method.examples(make_net(), x, y).x_adv
    torch.manual_seed(3)
    plain = PGDAT(Linf(EPS), steps=10, step_size=2 / 255).examples(make_net(), x, y).x_adv
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-7)
    clean, adv = torch.randn(6, 3), torch.randn(6, 3)
    y = torch.arange(6) % 3
    trades = calibrated(beta=6.0)
    trades.at_epoch(9.99)
    cross = nn.functional.cross_entropy(clean, y)
    divergence = (clean.softmax(1) * (clean.log_softmax(1) - adv.log_softmax(1))).sum(1).mean()
    expected = (cross + 6 * divergence) / 7
    assert trades.loss(views(clean, adv), y).item() == pytest.approx(expected.item(), abs=1e-6)


def test_rates_are_shares_of_each_class_over_one_epoch(make_net, make_batch) -> None:
    method, model = CFA(Linf(EPS), start_epoch=0), make_net()
    for epoch in range(2):
        correct, seen = [0, 0, 0], [0, 0, 0]
        method.at_epoch(epoch)
        for batch in range(4):
            x, y = make_batch(size=10, seed=10 * epoch + batch)
            for found in method.updates(model, x, y):
                for guess, label in zip(found.adv.logits.argmax(1).tolist(), y.tolist(), strict=True):
                    correct[label] += guess == label
                    seen[label] += 1
        assert seen == [16, 12, 12]
        assert method.end_epoch(model) is None
        torch.testing.assert_close(method.rates, torch.tensor(correct) / torch.tensor(seen))


def test_counts_are_added_over_the_processes(monkeypatch, make_net, make_batch) -> None:
    other = torch.tensor([[0.0, 2.0, 1.0], [0.0, 2.0, 9.0]])
    monkeypatch.setattr("protoat.methods.cfa.mean_over_processes", lambda own: (own + other) / 2)
    method = CFA(Linf(EPS))
    method.load_state_dict({"correct": torch.tensor([1.0, 0.0, 0.0]), "seen": torch.tensor([4.0, 2.0, 0.0])})
    method.end_epoch(make_net())
    torch.testing.assert_close(method.rates, torch.tensor([1 / 4, 2 / 4, 1 / 9]))


def test_a_class_without_images_keeps_the_plain_radius(make_net, make_batch) -> None:
    method, model = CFA(Linf(EPS), start_epoch=0), make_net()
    x, y = make_batch(size=8, classes=2)
    list(method.updates(model, x, y))
    method.end_epoch(model)
    assert method.rates.shape == (3,)
    x_adv = method.examples(model, x, torch.full((8,), 2)).x_adv
    assert norm_of("linf").distance(x_adv, x).max().item() == pytest.approx(EPS, abs=1e-6)


def test_given_radii_hold_from_the_first_epoch_and_may_be_fractions_in_text(make_net, make_batch) -> None:
    method = CFA(Linf(EPS), class_eps=["4/255", "8/255", 0.05])
    x, y = make_batch(size=12)
    moved = norm_of("linf").distance(method.examples(make_net(), x, y).x_adv, x)
    for label, eps in enumerate([4 / 255, 8 / 255, 0.05]):
        assert moved[y == label].max().item() == pytest.approx(eps, abs=1e-6)


@pytest.mark.parametrize("count", [2, 4])
def test_a_list_of_another_length_than_the_classes_is_refused(count, make_net, make_batch) -> None:
    method = CFA(Linf(EPS), class_eps=[EPS] * count)
    for refused in (lambda: method.check_classes(3), lambda: next(method.updates(make_net(), *make_batch()))):
        with pytest.raises(ValueError, match=f"class_eps has {count} radii for 3 classes; give one for each"):
            refused()
    method.check_classes(count)


def test_the_ramp_multiplies_every_radius(make_net, make_batch) -> None:
    method = calibrated(ramp_epochs=20)
    x, y = make_batch(size=12)
    moved = norm_of("linf").distance(method.examples(make_net(), x, y).x_adv, x)
    assert bool((moved <= 0.5 * (0.5 + RATES[y]) * EPS + 1e-6).all())
    assert method.eps == pytest.approx(EPS / 2)


def test_an_l2_budget(make_net, make_batch) -> None:
    method = CFA(L2(0.5), class_eps=[0.1, 0.5, 1.0])
    x, y = make_batch(size=12)
    moved = norm_of("l2").distance(method.examples(make_net(), x, y).x_adv, x)
    assert bool((moved <= torch.tensor([0.1, 0.5, 1.0])[y] + 1e-5).all())
    assert moved[y == 2].min() > 0.9


def test_an_interrupted_epoch_goes_on_counting(make_net, make_batch) -> None:
    whole, model = CFA(Linf(EPS), start_epoch=0), make_net()
    broken: CFA = CFA(Linf(EPS), start_epoch=0)
    for epoch in range(2):
        for batch in range(3):
            x, y = make_batch(seed=batch)
            for method in (whole, broken):
                method.at_epoch(epoch)
                torch.manual_seed(batch)
                list(method.updates(make_net(seed=epoch), x, y))
            fresh = CFA(Linf(EPS), start_epoch=0)
            fresh.load_state_dict({key: value.clone() for key, value in broken.state_dict().items()})
            broken = fresh
        whole.end_epoch(model)
        broken.end_epoch(model)
        assert torch.equal(whole.rates, broken.rates)


@pytest.mark.parametrize("name", ["beta", "eps_offset", "beta_offset", "start_epoch"])
def test_negative_settings_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=-1"):
        CFA(Linf(EPS), **{name: -1.0})


def test_a_radius_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="write 8/255"):
        CFA(Linf(EPS), class_eps=[8.0, 8.0])
