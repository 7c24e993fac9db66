"""DAJAT: its loss, its views, and which batch norm each view passes through."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from protoat.attacks import TPGD
from protoat.methods import DAJAT, TRADES
from protoat.methods.base import Examples
from protoat.methods.dajat import auto_augment
from protoat.models import batch_norm_branch, dual_batch_norm
from protoat.objective import Objective
from protoat.threats import Linf
from protoat.training import fit, parameter_groups
from protoat.types import Forwards, Output

EPS = 8 / 255


def slow_loss(pairs: list[tuple[Tensor, Tensor]], y: Tensor, beta: float, js_weight: float) -> float:
    """From the paper's equations, with Python's floats: (clean, adversarial) logits of each view."""
    total = 0.0
    for i, label in enumerate(y.tolist()):
        ps = [clean[i].softmax(0).tolist() for clean, _ in pairs]
        qs = [adv[i].softmax(0).tolist() for _, adv in pairs]
        for p, q in zip(ps, qs, strict=True):
            divergence = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
            total += (-math.log(p[label]) + beta * divergence) / len(pairs)
        mixture = [max(1e-7, sum(p[c] for p in ps) / len(ps)) for c in range(len(ps[0]))]
        js = sum(a * math.log(a / m) for p in ps for a, m in zip(p, mixture, strict=True)) / len(ps)
        total += js_weight * js
    return total / len(y)


def views(pairs: list[tuple[Tensor, Tensor]], y: Tensor) -> Forwards:
    nothing = torch.zeros(len(y), 0)
    every = [Forwards(nothing, Output(adv, nothing), Output(clean, nothing)) for clean, adv in pairs]
    return every[0]._replace(more=tuple((view, y) for view in every[1:]))


def test_the_loss_equals_a_loop_from_the_equation() -> None:
    pairs = [(torch.randn(5, 4).double(), torch.randn(5, 4).double()) for _ in range(3)]
    y = torch.tensor([0, 1, 2, 3, 0])
    loss = DAJAT(Linf(EPS), beta=11.0, js_weight=2.0).loss(views(pairs, y), y)
    assert loss.item() == pytest.approx(slow_loss(pairs, y, 11.0, 2.0), abs=1e-6)
    without = DAJAT(Linf(EPS), beta=11.0, js_weight=0.0).loss(views(pairs, y), y)
    assert loss.item() - without.item() > 0.1


def test_one_view_alone_is_trades() -> None:
    pair, y = (torch.randn(5, 4), torch.randn(5, 4)), torch.tensor([0, 1, 2, 3, 0])
    alone = DAJAT(Linf(EPS), beta=6.0).loss(views([pair], y), y)
    torch.testing.assert_close(alone, TRADES(Linf(EPS), beta=6.0).loss(views([pair], y), y))


def test_a_step_equals_one_on_a_network_with_two_branches(make_net, make_batch) -> None:
    """The reference has both batch-norm sets inside the network and every forward written out."""
    model = make_net(channels=3)
    dual = dual_batch_norm(model).train()
    x, y = make_batch(channels=3)
    method = DAJAT(Linf(EPS))
    method.prepare(model)
    examples = method.examples(model, x, y)
    found = method.forward(model, examples)
    loss = method.loss(found, y)
    loss.backward()

    pairs = []
    for part, branch in zip([examples, *examples.more], ["clean", "adv", "adv"], strict=True):
        with batch_norm_branch(dual, branch):
            pairs.append((dual(part.x).logits, dual(part.x_adv).logits))
    logits = [clean for clean, _ in pairs]
    terms = []
    for clean, adv in pairs:
        divergence = (clean.softmax(1) * (clean.log_softmax(1) - adv.log_softmax(1))).sum(1).mean()
        terms.append(nn.functional.cross_entropy(clean, y) + 11 * divergence)
    ps = torch.stack([one.softmax(1) for one in logits])
    js = (ps * (ps.log() - ps.mean(0).log())).sum(2).mean()
    expected = sum(terms) / 3 + 2 * js
    expected.backward()

    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(model.features[0].weight.grad, dual.features[0].weight.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model.head.weight.grad, dual.head.weight.grad, rtol=1e-4, atol=1e-6)
    own, second = model.features[1], method.second.layers[0]
    torch.testing.assert_close(own.weight.grad, dual.features[1].clean.weight.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(second.weight.grad, dual.features[1].adv.weight.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(own.running_mean, dual.features[1].clean.running_mean)
    torch.testing.assert_close(second.running_mean, dual.features[1].adv.running_mean)
    assert (own.num_batches_tracked.item(), second.num_batches_tracked.item()) == (2, 4)


def test_each_view_is_attacked_under_its_own_batch_norm(make_net, make_batch) -> None:
    model = make_net(channels=3)
    x, y = make_batch(channels=3)
    method = DAJAT(Linf(EPS))
    method.prepare(model)
    for layer in method.second.layers:  # far from the model's own
        nn.init.uniform_(layer.weight, -2, 2)
    other = deepcopy(model)
    for (_, own), layer in zip(
        [(n, m) for n, m in other.named_modules() if "BatchNorm" in type(m).__name__],
        method.second.layers,
        strict=True,
    ):
        own.load_state_dict(layer.state_dict())
    torch.manual_seed(7)
    examples = method.examples(model, x, y)
    torch.manual_seed(7)
    generator = DAJAT.generator(x)
    attack = TPGD(Linf(EPS), steps=2, step_size=EPS)
    assert torch.equal(examples.x_adv, attack.perturb(model, x, y, generator=generator))
    for part in examples.more:
        view = auto_augment(x, generator)
        assert torch.equal(part.x, view)
        assert torch.equal(part.x_adv, attack.perturb(other, view, y, generator=generator))
        assert torch.equal(part.y, y)


def test_the_model_is_deployed_as_it_is(make_net, make_batch) -> None:
    model = make_net()
    names, modules = list(model.state_dict()), list(model.modules())
    list(DAJAT(Linf(EPS)).updates(model, *make_batch()))
    assert list(model.state_dict()) == names
    assert list(model.modules()) == modules
    assert all(module.training for module in modules)


def test_a_network_without_batch_norm() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    method = DAJAT(Linf(EPS))
    found = next(method.updates(net, torch.rand(4, 1, 8, 8), torch.arange(4) % 3))
    assert len(found.more) == 2
    assert list(method.parameters()) == []


class TestRadius:
    def test_grows_over_the_whole_run_where_its_length_is_told(self) -> None:
        method = DAJAT(Linf(EPS))
        for epoch in (0.0, 5.0, 20.0):
            method.at_epoch(epoch, 20)
            assert method.eps == pytest.approx(EPS * epoch / 20)

    def test_is_full_where_it_is_not_told(self) -> None:
        method = DAJAT(Linf(EPS))
        method.at_epoch(1.0)
        assert method.eps == EPS

    def test_grows_over_given_epochs(self) -> None:
        method = DAJAT(Linf(EPS), ramp_epochs=4)
        method.at_epoch(1.0, 20)
        assert method.eps == pytest.approx(EPS / 4)

    def test_bounds_every_view(self, make_net, make_batch) -> None:
        method = DAJAT(Linf(EPS))
        method.at_epoch(5.0, 20)
        examples: Examples = method.examples(make_net(), *make_batch())
        for part in (examples, *examples.more):
            moved = (part.x_adv - part.x).abs().max().item()
            assert moved == pytest.approx(EPS / 4, abs=1e-6)

    def test_fit_tells_it(self, make_net, make_batch) -> None:
        model, objective = make_net(), Objective(DAJAT(Linf(EPS)))
        optimizer = torch.optim.SGD(parameter_groups(model, objective, lr=0.01))
        result = fit(model, [make_batch()] * 2, objective, epochs=2, optimizer=optimizer, progress=False)
        assert [line["eps"] for line in result.metrics] == pytest.approx([EPS / 2, EPS])


class TestSecondSet:
    def test_learns_with_the_network(self, make_net, make_batch) -> None:
        model, objective = make_net(), Objective(DAJAT(Linf(EPS)))
        groups = parameter_groups(model, objective, lr=0.1, weight_decay=5e-4, prototype_lr_factor=7)
        assert [(len(group["params"]), group["lr"]) for group in groups] == [(len(list(model.parameters())) + 4, 0.1)]
        before = [parameter.detach().clone() for parameter in objective.parameters()]
        fit(model, [make_batch()] * 2, objective, epochs=1, optimizer=torch.optim.SGD(groups), progress=False)
        assert not any(torch.equal(was, now) for was, now in zip(before, objective.parameters(), strict=True))

    def test_missing_from_the_optimizer_is_refused(self, make_net, make_batch) -> None:
        model, objective = make_net(), Objective(DAJAT(Linf(EPS)))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with pytest.raises(ValueError, match="the optimizer lacks objective parameter 0"):
            fit(model, [make_batch()], objective, epochs=1, optimizer=optimizer, progress=False)

    def test_survives_an_interruption(self, make_net, make_batch) -> None:
        model, method = make_net(), DAJAT(Linf(EPS))
        list(method.updates(model, *make_batch()))
        with torch.no_grad():
            next(method.parameters()).fill_(3.0)
        state = {key: value.clone() for key, value in method.state_dict().items()}
        other = DAJAT(Linf(EPS))
        other.prepare(make_net())
        other.load_state_dict(state)
        other.prepare(make_net())
        assert other.state_dict().keys() == state.keys()
        assert all(torch.equal(value, state[key]) for key, value in other.state_dict().items())


class TestAutoAugment:
    @pytest.mark.parametrize("channels", [1, 3])
    def test_is_torchvisions_image_by_image(self, channels: int) -> None:
        x = torch.randint(256, (6, channels, 16, 16)).float() / 255
        actual = auto_augment(x, torch.Generator().manual_seed(3))
        seed = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(3)).item())
        torch.manual_seed(seed)
        transform = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10, fill=128)
        expected = [transform((image * 255).round().to(torch.uint8)).float() / 255 for image in x]
        assert torch.equal(actual, torch.stack(expected))
        assert actual.min() >= 0 and actual.max() <= 1
        assert (actual != x).flatten(1).any(1).float().mean() > 0.3

    def test_draws_for_each_image_and_leaves_the_global_state(self) -> None:
        image = torch.rand(1, 3, 16, 16)
        before = torch.get_rng_state()
        found = auto_augment(image.expand(8, -1, -1, -1), torch.Generator().manual_seed(0))
        assert torch.equal(torch.get_rng_state(), before)
        assert len({tuple(one.flatten().tolist()) for one in found}) > 4

    def test_two_draws_differ(self) -> None:
        x, generator = torch.rand(8, 3, 16, 16), torch.Generator().manual_seed(0)
        assert not torch.equal(auto_augment(x, generator), auto_augment(x, generator))

    def test_other_images_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"needs images \(B, 1 or 3, H, W\), got \(2, 4, 8, 8\)"):
            auto_augment(torch.rand(2, 4, 8, 8), torch.Generator())


@pytest.mark.parametrize("name", ["beta", "js_weight", "ramp_epochs"])
def test_negative_settings_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=-1"):
        DAJAT(Linf(EPS), **{name: -1.0})
