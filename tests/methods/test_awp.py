"""Adversarial weight perturbation, against the authors' procedure with its proxy network."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD

from protoat.functional.consistency import kl_divergence
from protoat.methods import AWP, CFA, DAJAT, PGDAT, TRADES, FastAT, FreeAT, Method, Standard
from protoat.objective import Objective
from protoat.regularizers import SoftTriple
from protoat.threats import Linf, ThreatModel

THREAT = Linf(8 / 255)


def pgd_loss(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x_adv).logits, y)


def trades_loss(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Tensor:
    clean, adv = model(x).logits, model(x_adv).logits
    return F.cross_entropy(clean, y) + 6 * kl_divergence(clean, adv).mean()


def slow_awp_step(
    model: nn.Module, optimizer: SGD, loss: Callable[..., Tensor], images: tuple[Tensor, ...], gamma: float
) -> None:
    """As the authors write it: a copied network takes one plain SGD step up the loss, and the difference is scaled."""
    proxy = deepcopy(model)
    proxy_optimizer = SGD(proxy.parameters(), lr=0.01)
    proxy_optimizer.zero_grad()
    (-loss(proxy, *images)).backward()
    proxy_optimizer.step()
    moves = {}
    for (name, old), new in zip(model.named_parameters(), proxy.parameters(), strict=True):
        if old.dim() > 1 and "weight" in name:
            difference = (new - old).detach()
            moves[name] = difference * old.detach().norm() / (difference.norm() + 1e-20)
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, move in moves.items():
            weights[name].add_(move, alpha=gamma)
    optimizer.zero_grad()
    loss(model, *images).backward()
    optimizer.step()
    with torch.no_grad():
        for name, move in moves.items():
            weights[name].add_(move, alpha=-gamma)


@pytest.mark.parametrize(
    ("inside", "loss"), [(partial(PGDAT, steps=2), pgd_loss), (partial(TRADES, steps=2), trades_loss)]
)
def test_steps_equal_those_of_the_authors_procedure(inside, loss, make_net, make_batch) -> None:
    model = make_net().double()
    reference = deepcopy(model)
    x, y = make_batch()
    x = x.double()
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
    ours, theirs = SGD(model.parameters(), **settings), SGD(reference.parameters(), **settings)
    method = AWP(THREAT, method=inside, gamma=0.01)
    for step in range(3):
        torch.manual_seed(step)
        examples = inside(THREAT).examples(reference, x, y)
        slow_awp_step(reference, theirs, loss, (x, examples.x_adv, y), 0.01)
        torch.manual_seed(step)
        for terms in Objective(method).losses(model, x, y):
            ours.zero_grad()
            terms.total.backward()
            ours.step()
    for (name, mine), other in zip(model.state_dict().items(), reference.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-8, msg=name)


def test_kernels_move_by_gamma_of_their_norm_and_nothing_else_moves(make_net, make_batch) -> None:
    model, (x, y) = make_net(), make_batch()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    metric = SoftTriple(3, 6, prototypes_per_class=2)
    prototypes = [value.detach().clone() for value in metric.parameters()]
    running = Objective(AWP(THREAT, gamma=0.05), metric).losses(model, x, y)
    next(running)
    for name, value in model.named_parameters():
        moved = (value.detach() - before[name]).norm()
        expected = 0.05 * before[name].norm() if value.dim() > 1 else torch.zeros(())
        torch.testing.assert_close(moved, expected, rtol=1e-4, atol=0, msg=name)
    assert all(torch.equal(was, value) for was, value in zip(prototypes, metric.parameters(), strict=True))
    running.close()


def test_the_move_raises_the_loss_more_than_a_random_one_of_the_same_length(make_net, make_batch) -> None:
    model, (x, y) = make_net(), make_batch(size=32)
    method = AWP(THREAT, gamma=0.02)
    plain = deepcopy(model)
    running = method.updates(model, x, y)
    x_adv = next(running).x_adv
    raised = F.cross_entropy(model(x_adv).logits, y)
    base = F.cross_entropy(plain(x_adv).logits, y)
    for seed in range(5):
        other = deepcopy(plain)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for value in other.parameters():
                if value.dim() > 1:
                    noise = torch.randn(value.shape, generator=generator)
                    value.add_(0.02 * value.norm() * noise / noise.norm())
        assert raised - base > F.cross_entropy(other(x_adv).logits, y) - base
    assert raised > base


def states(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def assert_same_weights(model: nn.Module, before: dict[str, Tensor]) -> None:
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name]), name


class TestWeightsComeBack:
    """Bit for bit, up to what the caller added."""

    def test_after_a_step_of_length_zero(self, make_net, make_batch) -> None:
        model, before = make_net(), None
        optimizer = SGD(model.parameters(), lr=0.0)
        before = states(model)
        for terms in Objective(AWP(THREAT, gamma=0.3)).losses(model, *make_batch()):
            terms.total.backward()
            optimizer.step()
        assert_same_weights(model, before)

    def test_after_an_ascent_without_a_finite_gradient(self, make_net, make_batch) -> None:
        class Overflowing(nn.Module):
            """Finite logits whose gradient at one kernel is not."""

            def __init__(self) -> None:
                super().__init__()
                self.net = make_net()
                self.kernel = nn.Parameter(torch.ones(2, 2))

            def forward(self, x: Tensor) -> Tensor:
                logits: Tensor = self.net(x).logits
                return logits + (0 * self.kernel.sum()).sqrt()

        model = Overflowing()
        before = states(model)
        for terms in Objective(AWP(THREAT, gamma=0.3)).losses(model, *make_batch()):
            assert bool(terms.total.isfinite())
        assert_same_weights(model, before)

    def test_the_update_is_added_to_the_weights_as_they_were(self, make_net, make_batch) -> None:
        model = make_net()
        before = states(model)
        optimizer = SGD(model.parameters(), lr=0.1)
        for terms in Objective(AWP(THREAT, gamma=0.3)).losses(model, *make_batch()):
            optimizer.zero_grad()
            terms.total.backward()
            optimizer.step()
        for name, value in model.named_parameters():
            torch.testing.assert_close(value.detach(), before[name] - 0.1 * value.grad, rtol=0, atol=3e-7, msg=name)

    def test_when_the_caller_closes_the_generator(self, make_net, make_batch) -> None:
        model = make_net()
        before = states(model)
        running = AWP(THREAT, gamma=0.3).updates(model, *make_batch())
        next(running)
        assert not torch.equal(model.head.weight, before["head.weight"])
        running.close()
        assert_same_weights(model, before)

    def test_when_the_caller_breaks_out_of_the_loop(self, make_net, make_batch) -> None:
        model = make_net()
        before = states(model)
        for _ in Objective(AWP(THREAT, gamma=0.3)).losses(model, *make_batch()):
            break
        assert_same_weights(model, before)

    def test_when_the_caller_raises(self, make_net, make_batch) -> None:
        model = make_net()
        before = states(model)

        def train() -> None:
            for _ in Objective(AWP(THREAT, gamma=0.3)).losses(model, *make_batch()):
                raise ArithmeticError

        with pytest.raises(ArithmeticError):
            train()
        assert_same_weights(model, before)

    def test_when_the_second_forward_fails(self, make_net, make_batch) -> None:
        model = make_net()
        before = states(model)
        calls = []

        def fail(*_: object) -> None:
            calls.append(model.training)
            if calls.count(True) == 2:
                raise MemoryError

        model.register_forward_pre_hook(fail)
        with pytest.raises(MemoryError):
            next(AWP(THREAT, gamma=0.3).updates(model, *make_batch()))
        assert_same_weights(model, before)


def test_batch_norm_moves_once_and_by_the_second_forward(make_net, make_batch) -> None:
    model = make_net()
    running = AWP(THREAT, gamma=0.3).updates(model, *make_batch())
    views = next(running)
    fresh = make_net()
    fresh.load_state_dict(dict(model.named_parameters()), strict=False)
    fresh(views.x_adv)
    assert model.features[1].num_batches_tracked.item() == 1
    torch.testing.assert_close(fresh.features[1].running_mean, model.features[1].running_mean)
    running.close()


def test_examples_come_from_the_unmoved_weights(make_net, make_batch) -> None:
    x, y = make_batch()
    torch.manual_seed(4)
    inside = next(PGDAT(THREAT).updates(make_net(), x, y))
    torch.manual_seed(4)
    outside = next(AWP(THREAT, method=PGDAT, gamma=0.3).updates(make_net(), x, y))
    assert torch.equal(inside.x_adv, outside.x_adv)
    assert not torch.equal(inside.adv.logits, outside.adv.logits)


def test_before_its_start_epoch_it_is_the_method_inside(make_net, make_batch) -> None:
    x, y = make_batch()
    method = AWP(THREAT, gamma=0.3, start_epoch=2)
    for epoch, same in ((0.0, True), (1.99, True), (2.0, False)):
        method.at_epoch(epoch)
        torch.manual_seed(4)
        inside = next(PGDAT(THREAT).updates(make_net(), x, y))
        torch.manual_seed(4)
        outside = next(method.updates(make_net(), x, y))
        assert torch.equal(inside.adv.logits, outside.adv.logits) == same


def test_the_model_is_trained_only_through_the_second_forward(make_net, make_batch) -> None:
    """The gradient that gives the direction must leave nothing in ``.grad``."""
    model = make_net()
    next(AWP(THREAT).updates(model, *make_batch()))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_frozen_kernel_stays(make_net, make_batch) -> None:
    model = make_net()
    model.features[0].weight.requires_grad_(False)
    before = states(model)
    running = AWP(THREAT, gamma=0.3).updates(model, *make_batch())
    next(running)
    assert torch.equal(model.features[0].weight, before["features.0.weight"])
    assert not torch.equal(model.head.weight, before["head.weight"])
    running.close()


def test_the_method_inside_keeps_its_ramp_its_guard_and_its_state(make_net, make_batch) -> None:
    method = AWP(THREAT, method=partial(FastAT, ramp_epochs=4))
    method.at_epoch(1.0, 10)
    assert method.eps == pytest.approx(THREAT.eps / 4)
    model, (x, y) = make_net(), make_batch()
    for views in method.updates(model, x, y):
        assert (views.x_adv - x).abs().max() <= THREAT.eps / 4 + 1e-6
    other = AWP(THREAT, method=FastAT)
    other.load_state_dict(method.state_dict())
    assert torch.equal(other.method.state_dict()["watched_x"], x)
    assert method.end_epoch(model) is None
    assert set(method.state_dict()) == {"method.previous"}


@pytest.mark.parametrize("inside", [PGDAT, DAJAT])
def test_its_ramp_is_that_of_the_method_inside(inside: Callable[[ThreatModel], Method]) -> None:
    method = AWP(THREAT, method=inside, ramp_epochs=4)
    for epoch, share in ((None, 1.0), (1.0, 0.25), (4.0, 1.0), (9.0, 1.0)):
        if epoch is not None:
            method.at_epoch(epoch, 10)
        assert method.eps == pytest.approx(share * THREAT.eps)


def test_the_method_inside_says_which_classes_fit() -> None:
    method = AWP(THREAT, method=partial(CFA, class_eps=[0.1, 0.2]))
    method.check_classes(2)
    with pytest.raises(ValueError, match="class_eps has 2 radii for 3 classes"):
        method.check_classes(3)


def test_class_statistics_are_counted_once_for_each_image(make_net, make_batch) -> None:
    method = AWP(THREAT, method=CFA)
    x, y = make_batch(size=9)
    for _ in range(2):
        list(method.updates(make_net(), x, y))
    assert method.state_dict()["method.seen"].tolist() == [6, 6, 6]


def test_what_the_method_inside_learns_is_known_and_stays_unmoved(make_net, make_batch) -> None:
    model, method = make_net(), AWP(THREAT, method=DAJAT, gamma=0.3)
    method.prepare(model)
    before = [parameter.detach().clone() for parameter in method.parameters()]
    assert len(before) == 4
    running = method.updates(model, *make_batch())
    views = next(running)
    assert len(views.more) == 2
    assert all(torch.equal(was, now) for was, now in zip(before, method.parameters(), strict=True))
    assert method.method.second.layers[0].num_batches_tracked.item() == 4
    running.close()


@pytest.mark.parametrize("inside", [FreeAT, AWP])
def test_methods_that_cannot_be_meant_are_refused(inside: Callable[[ThreatModel], Method]) -> None:
    with pytest.raises(ValueError, match=f"AWP cannot wrap {inside.__name__}"):
        AWP(THREAT, method=inside)


def test_it_trains_against_the_attack_of_the_method_inside() -> None:
    assert AWP(THREAT, method=partial(PGDAT, steps=3)).attack.parameters() == PGDAT(THREAT, steps=3).attack.parameters()
    assert AWP(THREAT, method=Standard).attack is None


def test_clean_training_can_be_wrapped(make_net, make_batch) -> None:
    x, y = make_batch()
    views = next(AWP(THREAT, method=Standard).updates(make_net(), x, y))
    assert torch.equal(views.x_adv, x)


def test_mistakes_are_refused() -> None:
    with pytest.raises(ValueError, match="gamma=0 must be positive"):
        AWP(THREAT, gamma=0.0)
    with pytest.raises(ValueError, match="start_epoch=-1 must not be negative"):
        AWP(THREAT, start_epoch=-1.0)
