"""MART against its equation."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from protoat.methods import MART
from protoat.objective import Objective
from protoat.threats import Linf
from protoat.types import Forwards, Output

EPS = 8 / 255


def slow_step(model: nn.Module, x: Tensor, y: Tensor, noise: Tensor, beta: float) -> Tensor:
    """The loss of one step in float64, written from the paper; the rival class by sorting, as the authors do."""
    model.eval()
    x_adv = (x + 0.001 * noise).clamp(0, 1)
    for _ in range(3):
        x_adv = x_adv.detach().requires_grad_()
        p = model(x_adv).logits.softmax(1)
        (gradient,) = torch.autograd.grad(-sum(p[i, y[i]].log() for i in range(len(x))), x_adv)
        x_adv = torch.min(torch.max(x_adv.detach() + 0.01 * gradient.sign(), x - EPS), x + EPS).clamp(0, 1)
    model.train()
    clean, adv = model(x).logits.softmax(1), model(x_adv).logits.softmax(1)
    total = x.new_zeros(())
    for i in range(len(x)):
        order = adv[i].sort().indices
        rival = order[-2] if order[-1] == y[i] else order[-1]
        boosted = -adv[i, y[i]].log() - (1.0001 - adv[i, rival] + 1e-12).log()
        divergence = sum(clean[i, c] * (clean[i, c].log() - (adv[i, c] + 1e-12).log()) for c in range(3))
        total = total + boosted + beta * divergence * (1.0000001 - clean[i, y[i]])
    return total / len(x)


def test_one_step_equals_a_loop_from_the_equation_in_float64(make_net, make_batch) -> None:
    model = make_net().double()
    x, y = make_batch()
    x = x.double()
    reference = deepcopy(model)
    seed = int(torch.randint(2**62, ()).item())
    noise = torch.empty_like(x).normal_(generator=torch.Generator().manual_seed(seed))
    expected = slow_step(reference, x, y, noise, beta=5.0)
    expected.backward()

    torch.manual_seed(0)
    (terms,) = list(Objective(MART(Linf(EPS), beta=5.0, steps=3, step_size=0.01)).losses(model, x, y))
    terms.total.backward()
    assert terms.total.item() == pytest.approx(expected.item(), abs=1e-9)
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("beta", "total"), [(5.0, 3.150559), (6.0, 3.222631), (0.0, 2.790202)])
def test_golden_values(beta: float, total: float) -> None:
    nothing = torch.zeros(2, 0)
    clean = Output(torch.tensor([[2.0, 1.0, 0.5, -1.0], [0.0, 3.0, 1.0, 2.0]]), nothing)
    adv = Output(torch.tensor([[1.0, 1.5, 0.5, -1.0], [0.0, 3.0, 1.0, 1.0]]), nothing)
    views = Forwards(torch.zeros(2, 1), adv, clean)
    assert MART(Linf(EPS), beta=beta).loss(views, torch.tensor([0, 3])).item() == pytest.approx(total, abs=1e-6)


def test_the_weight_of_an_example_learns_too() -> None:
    """The authors do not detach ``1 - p_y``; without its gradient the one into the clean logits would differ."""
    clean, adv = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3)
    y, nothing = torch.tensor([0, 1, 2, 0]), torch.zeros(4, 0)
    loss = MART(Linf(EPS), beta=1.0).loss(Forwards(adv, Output(adv, nothing), Output(clean, nothing)), y)
    (gradient,) = torch.autograd.grad(loss, clean)
    p, q = clean.softmax(1), adv.softmax(1)
    weight = 1.0000001 - p.gather(1, y[:, None])[:, 0]
    divergence = (p * (p.log() - (q + 1e-12).log())).sum(1)
    (whole,) = torch.autograd.grad((divergence * weight).mean(), clean, retain_graph=True)
    (detached,) = torch.autograd.grad((divergence * weight.detach()).mean(), clean)
    torch.testing.assert_close(gradient, whole, rtol=1e-4, atol=1e-6)
    assert (gradient - detached).abs().max() > 0.01


def test_the_attack_follows_the_labels(make_net, make_batch) -> None:
    x, y = make_batch()
    images = []
    for labels in (y, (y + 1) % 3):
        torch.manual_seed(3)
        images.append(next(MART(Linf(EPS)).updates(make_net(), x, labels)).x_adv)
    assert not torch.equal(*images)


def test_mistakes_are_refused() -> None:
    with pytest.raises(ValueError, match="beta=-5 must not be negative"):
        MART(Linf(EPS), beta=-5.0)
    adv = Output(torch.zeros(2, 3), torch.zeros(2, 0))
    with pytest.raises(ValueError, match=r"Forwards\.clean"):
        MART(Linf(EPS)).loss(Forwards(torch.zeros(2, 1), adv), torch.tensor([0, 1]))
