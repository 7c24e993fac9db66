"""What TRADES, MART, AWP, CFA, DAJAT and BiaMAT have in common, each as it is built from a threat model."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from protoat.data import Digits
from protoat.methods import AWP, CFA, DAJAT, MART, TRADES, BiaMAT, Method
from protoat.objective import Objective
from protoat.regularizers import TLA, SoftTriple
from protoat.threats import L2, Linf, ThreatModel

Build = Callable[[ThreatModel], Method]
METHODS: dict[str, Build] = {
    "TRADES": TRADES,
    "MART": MART,
    "AWP": AWP,
    "AWP around TRADES": partial(AWP, method=TRADES),
    "CFA": partial(CFA, start_epoch=0),
    "CFA as TRADES": partial(CFA, start_epoch=0, beta=6.0),
    "DAJAT": DAJAT,
    "BiaMAT": partial(BiaMAT, auxiliary=Digits(), warmup_epochs=0),
}
THREAT = Linf(8 / 255)
each = pytest.mark.parametrize("build", METHODS.values(), ids=METHODS.keys())


def train(model: nn.Module, method: Method, batches: list[tuple[Tensor, Tensor]], first: int = 0, **parts) -> None:
    objective = Objective(method, **parts)
    torch.manual_seed(0)
    objective.prepare(model)
    optimizer = torch.optim.SGD([*model.parameters(), *objective.parameters()], lr=0.05)
    for step, (x, y) in enumerate(batches, start=first):
        torch.manual_seed(step)
        for terms in objective.losses(model, x, y):
            optimizer.zero_grad()
            terms.total.backward()
            optimizer.step()


@each
def test_every_weight_learns_and_nothing_else_is_touched(build: Build, make_net, make_batch) -> None:
    model, method, (x, y) = make_net(), build(THREAT), make_batch()
    method.prepare(model)
    images = x.clone()
    for terms in Objective(method).losses(model, x, y):
        terms.total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
    assert model.features[0].weight.grad.abs().max() > 0
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())
    assert torch.equal(x, images) and not x.requires_grad


@each
def test_two_classes(build: Build, make_net, make_batch) -> None:
    model = make_net(classes=2)
    train(model, build(THREAT), [make_batch(classes=2)] * 2)
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())


@each
def test_a_batch_of_one_class(build: Build, make_net, make_batch) -> None:
    model, (x, _) = make_net(), make_batch()
    train(model, build(THREAT), [(x, torch.full((8,), 2))] * 2)
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())


@each
@pytest.mark.parametrize("threat", [THREAT, L2(0.5)], ids=["linf", "l2"])
def test_images_keep_to_the_budget_and_the_range(build: Build, threat: ThreatModel, make_net, make_batch) -> None:
    model, (x, y) = make_net(), make_batch()
    x[0], x[1] = 0.0, 1.0
    method = build(threat)
    for views in method.updates(model, x, y):
        assert views.x_adv.min() >= 0 and views.x_adv.max() <= 1
        moved = threat.geometry.distance(views.x_adv, x)
        assert bool((moved <= threat.eps + 1e-5).all())
        assert bool((moved > 0).all())


@each
def test_autocast_in_bfloat16(build: Build, make_net, make_batch) -> None:
    model, method, (x, y) = make_net(), build(THREAT), make_batch()
    plain = deepcopy(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        running = Objective(method).losses(model, x, y)
        terms = next(running)
    assert terms.base.dtype == torch.float32
    terms.total.backward()
    running.close()
    torch.manual_seed(0)
    full = next(Objective(build(THREAT)).losses(plain, x, y))
    assert terms.base.item() == pytest.approx(full.base.item(), rel=0.3)
    assert all(bool(parameter.grad.isfinite().all()) for parameter in model.parameters())


@each
def test_the_same_seed_gives_the_same_step_and_another_seed_another(build: Build, make_net, make_batch) -> None:
    x, y = make_batch()
    images = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        images.append(next(build(THREAT).updates(make_net(), x, y)).x_adv)
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])


@each
def test_an_interrupted_run_goes_on_exactly(build: Build, make_net, make_batch) -> None:
    batches = [make_batch(seed=seed) for seed in range(4)]
    whole, method = make_net(dropout=0.2), build(THREAT)
    train(whole, method, batches)
    broken, first = make_net(dropout=0.2), build(THREAT)
    train(broken, first, batches[:2])
    second = build(THREAT)
    second.prepare(broken)
    second.load_state_dict({key: value.clone() for key, value in first.state_dict().items()})
    train(broken, second, batches[2:], first=2)
    for key, value in whole.state_dict().items():
        assert torch.equal(broken.state_dict()[key], value), key
    expected = method.state_dict()
    assert second.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in second.state_dict().items())


@each
def test_with_a_metric_term(build: Build, make_net, make_batch) -> None:
    for regularizer in (SoftTriple(3, 6, prototypes_per_class=2), TLA(3, 6)):
        model = make_net()
        train(model, build(THREAT), [make_batch()] * 2, regularizer=regularizer, norm_weight=0.1)
        assert all(bool(value.isfinite().all()) for value in model.state_dict().values())


MILD: dict[str, Build] = {
    **METHODS,
    "CFA as TRADES": partial(CFA, start_epoch=0, beta=1.0),
    "DAJAT": partial(DAJAT, beta=1.0),
}


@pytest.mark.parametrize("build", MILD.values(), ids=MILD.keys())
def test_it_learns_a_problem_that_has_a_robust_solution(build: Build, make_net) -> None:
    y = torch.arange(48) % 3
    x = 0.3 + 0.05 * torch.rand(48, 1, 8, 8)
    x[y == 1, :, ::4] += 0.5  # stripes that lie, which no turn of AutoAugment takes for
    x[y == 2, :, :, ::4] += 0.5  # stripes that stand
    model = make_net()
    train(model, build(THREAT), [(x, y)] * 40)
    accuracy = (model.eval()(x).logits.argmax(1) == y).float().mean()
    assert accuracy > 0.95
