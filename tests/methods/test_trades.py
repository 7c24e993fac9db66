"""TRADES against its equation, step by step."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protoat.methods import TRADES
from protoat.objective import Objective
from protoat.threats import Linf
from protoat.types import Forwards, Output

EPS = 8 / 255


def views(clean: Tensor, adv: Tensor) -> Forwards:
    nothing = torch.zeros(len(clean), 0)
    return Forwards(torch.zeros(len(clean), 1), Output(adv, nothing), Output(clean, nothing))


def slow_step(model: nn.Module, x: Tensor, y: Tensor, noise: Tensor, beta: float) -> Tensor:
    """The loss of one step in float64, written from the paper: every sum is a loop."""
    model.eval()
    x_adv = (x + 0.001 * noise).clamp(0, 1)
    for _ in range(3):
        x_adv = x_adv.detach().requires_grad_()
        p, q = model(x).logits.softmax(1).detach(), model(x_adv).logits.softmax(1)
        divergence = sum((p[i] * (p[i] / q[i]).log()).sum() for i in range(len(x)))
        (gradient,) = torch.autograd.grad(divergence, x_adv)
        x_adv = torch.min(torch.max(x_adv.detach() + 0.01 * gradient.sign(), x - EPS), x + EPS).clamp(0, 1)
    model.train()
    p, q = model(x).logits.softmax(1), model(x_adv).logits.softmax(1)
    total = x.new_zeros(())
    for i in range(len(x)):
        total = total - p[i, y[i]].log() + beta * sum(p[i, c] * (p[i, c].log() - q[i, c].log()) for c in range(3))
    return total / len(x)


def test_one_step_equals_a_loop_from_the_equation_in_float64(make_net, make_batch) -> None:
    model = make_net().double()
    x, y = make_batch()
    x = x.double()
    reference = deepcopy(model)
    seed = int(torch.randint(2**62, ()).item())
    noise = torch.empty_like(x).normal_(generator=torch.Generator().manual_seed(seed))
    expected = slow_step(reference, x, y, noise, beta=6.0)
    expected.backward()

    torch.manual_seed(0)
    method = TRADES(Linf(EPS), beta=6.0, steps=3, step_size=0.01)
    (terms,) = list(Objective(method).losses(model, x, y))
    terms.total.backward()
    assert terms.total.item() == pytest.approx(expected.item(), abs=1e-6)
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)
    for ours, theirs in zip(model.buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_golden_value() -> None:
    clean = torch.tensor([[2.0, 1.0, 0.5, -1.0], [0.0, 3.0, 1.0, 2.0]])
    adv = torch.tensor([[1.0, 1.5, 0.5, -1.0], [0.0, 3.0, 1.0, 1.0]])
    y = torch.tensor([0, 3])
    assert TRADES(Linf(EPS), beta=6.0).loss(views(clean, adv), y).item() == pytest.approx(1.861232, abs=1e-6)
    assert TRADES(Linf(EPS), beta=0.0).loss(views(clean, adv), y).item() == pytest.approx(0.967686, abs=1e-6)


def test_the_divergence_sends_gradient_into_the_clean_prediction_too() -> None:
    clean = torch.randn(4, 3, requires_grad=True)
    adv = torch.randn(4, 3, requires_grad=True)
    y = torch.tensor([0, 1, 2, 0])
    loss = TRADES(Linf(EPS), beta=6.0).loss(views(clean, adv), y)
    into_clean, into_adv = torch.autograd.grad(loss, [clean, adv])
    (by_ce,) = torch.autograd.grad(F.cross_entropy(clean, y), clean)
    assert (into_clean - by_ce).abs().max() > 0.01
    assert into_adv.abs().max() > 0.01


def test_batch_norm_moves_once_for_each_of_the_two_forwards(make_net, make_batch) -> None:
    model = make_net()
    next(TRADES(Linf(EPS)).updates(model, *make_batch()))
    assert model.features[1].num_batches_tracked.item() == 2


def test_clean_and_adversarial_images_do_not_meet_in_batch_norm(make_net, make_batch) -> None:
    model = make_net()
    x, y = make_batch()
    reference = deepcopy(model)
    found = next(TRADES(Linf(EPS)).updates(model, x, y))
    assert torch.equal(found.clean.logits, reference(x).logits)
    assert torch.equal(found.adv.logits, reference(found.x_adv).logits)


def test_the_attack_needs_no_labels(make_net, make_batch) -> None:
    x, y = make_batch()
    images = []
    for labels in (y, (y + 1) % 3):
        torch.manual_seed(3)
        images.append(next(TRADES(Linf(EPS)).updates(make_net(), x, labels)).x_adv)
    assert torch.equal(*images)


def test_a_negative_beta_is_refused() -> None:
    with pytest.raises(ValueError, match="beta=-1 must not be negative"):
        TRADES(Linf(EPS), beta=-1.0)


def test_the_loss_says_when_the_clean_forward_is_missing() -> None:
    adv = Output(torch.zeros(2, 3), torch.zeros(2, 0))
    with pytest.raises(ValueError, match=r"Forwards\.clean"):
        TRADES(Linf(EPS)).loss(Forwards(torch.zeros(2, 1), adv), torch.tensor([0, 1]))
