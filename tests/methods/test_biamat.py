"""BiaMAT: its loss, its gate, and where auxiliary images go."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from protoat.attacks import TPGD
from protoat.attacks.mode import attacking
from protoat.data import Augment, Digits, ImageData, Source
from protoat.methods import BiaMAT
from protoat.objective import Objective
from protoat.threats import Linf
from protoat.training import fit, parameter_groups
from protoat.types import Forwards, Output

EPS = 8 / 255


@pytest.fixture
def auxiliary() -> ImageData:
    generator = torch.Generator().manual_seed(9)
    images = torch.randint(256, (40, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return ImageData(images, torch.arange(40) % 5, tuple("abcde"))


def started(auxiliary: ImageData | Source, threshold: float | None = None, **settings: object) -> BiaMAT:
    """Past its warm-up, with a known threshold of the gate."""
    method = BiaMAT(Linf(EPS), auxiliary=auxiliary, warmup_epochs=1, **settings)
    method.at_epoch(1.0)
    method.threshold = None if threshold is None else torch.tensor(threshold)
    return method


def log_softmax(row: Tensor) -> list[float]:
    values = row.tolist()
    top = max(values)
    total = top + math.log(sum(math.exp(value - top) for value in values))
    return [value - total for value in values]


def slow_kl(p: Tensor, q: Tensor) -> float:
    a, b = log_softmax(p), log_softmax(q)
    return sum(math.exp(one) * (one - two) for one, two in zip(a, b, strict=True))


def slow_loss(views: Forwards, y: Tensor, classes: int, alpha: float, beta: float) -> float:
    """From the equation, with Python's floats."""
    clean, adv = views.clean.logits, views.adv.logits
    primary = sum(
        -log_softmax(clean[i])[label] + beta * slow_kl(clean[i], adv[i]) for i, label in enumerate(y.tolist())
    )
    ((other, labels),) = views.more
    clean, adv = other.clean.logits, other.adv.logits
    total = 0.0
    for i, label in enumerate(labels.tolist()):
        if label >= 0:
            total -= log_softmax(clean[i, classes:])[label]
            total += beta * slow_kl(clean[i, classes:], adv[i, classes:])
        else:
            total -= sum(log_softmax(clean[i, :classes])) / classes
            total += beta * slow_kl(clean[i, :classes], adv[i, :classes])
    return primary / len(y) + alpha * total / len(labels)


def random_views(labels: Tensor) -> Forwards:
    """Three primary classes, five auxiliary ones; -1 marks an image outside the gate."""
    nothing = torch.zeros(6, 0)
    output = lambda classes: Output(torch.randn(6, classes).double(), nothing)  # noqa: E731
    return Forwards(nothing, output(3), output(3), ((Forwards(nothing, output(8), output(8)), labels),))


@pytest.mark.parametrize("labels", [[0, -1, 4, -1, 2, 1], [0, 1, 2, 3, 4, 0], [-1] * 6], ids=["mixed", "in", "out"])
def test_the_loss_equals_a_loop_from_the_equation(labels: list[int], auxiliary: ImageData) -> None:
    y, views = torch.tensor([0, 1, 2, 0, 1, 2]), random_views(torch.tensor(labels))
    loss = started(auxiliary, alpha=0.7).loss(views, y)
    assert loss.item() == pytest.approx(slow_loss(views, y, 3, 0.7, 6.0), abs=1e-5)


def test_during_warm_up_the_auxiliary_loss_has_no_weight(auxiliary, make_net, make_batch) -> None:
    model, (x, y) = make_net(), make_batch()
    method = BiaMAT(Linf(EPS), auxiliary=auxiliary)
    method.at_epoch(4.99)
    (views,) = list(method.updates(model, x, y))
    loss = method.loss(views, y)
    assert loss.item() == pytest.approx(slow_loss(views, y, 3, 0.0, 6.0), abs=1e-5)
    loss.backward()
    assert method.head.weight.grad.abs().max() == 0
    assert method.threshold is None
    assert bool((views.more[0][1] >= 0).all())


def test_auxiliary_images_pass_through_batch_norm_with_the_primary_ones(auxiliary, make_net, make_batch) -> None:
    model = make_net()
    reference = deepcopy(model)
    method, (x, y) = started(auxiliary), make_batch()
    examples = method.examples(model, x, y)
    views = method.forward(model, examples)
    (other,) = examples.more
    expected = reference(torch.cat([x, other.x]))
    torch.testing.assert_close(views.clean.logits, expected.logits[:8])
    ((seen, _),) = views.more
    torch.testing.assert_close(seen.clean.logits[:, :3], expected.logits[8:])
    torch.testing.assert_close(seen.clean.logits[:, 3:], method.head(expected.embedding[8:]))
    assert model.features[1].num_batches_tracked.item() == 2


class TestGate:
    def test_threshold_is_set_once_from_the_first_primary_batch(self, auxiliary, make_net, make_batch) -> None:
        model, method = make_net(), started(auxiliary, gamma=0.9)
        x, y = make_batch()
        with attacking(model):
            expected = 0.9 * model(x).logits.softmax(1).amax(1).mean()
        method.examples(model, x, y)
        torch.testing.assert_close(method.threshold, expected.detach())
        first = method.threshold.clone()
        method.examples(make_net(seed=5), *make_batch(seed=8))
        assert torch.equal(method.threshold, first)

    def test_lets_in_what_the_primary_head_is_sure_of(self, auxiliary, make_net, make_batch) -> None:
        model, (x, y) = make_net(), make_batch(size=16)
        with attacking(model):
            confidence = model(auxiliary.images / 255).logits.softmax(1).amax(1)
        middle = confidence.median().item()
        (other,) = started(auxiliary, threshold=middle).examples(model, x, y).more
        with attacking(model):
            inside = model(other.x).logits.softmax(1).amax(1) >= middle
        assert 0 < inside.sum() < 16
        assert torch.equal(other.y >= 0, inside)

    @pytest.mark.parametrize(("threshold", "inside"), [(0.0, True), (1.1, False)])
    def test_all_on_one_side(self, threshold, inside, auxiliary, make_net, make_batch) -> None:
        model, method = make_net(), started(auxiliary, threshold=threshold)
        x, y = make_batch()
        (terms,) = list(Objective(method).losses(model, x, y))
        terms.total.backward()
        gradient = method.head.weight.grad
        assert bool(gradient.abs().max() > 0) == inside
        assert bool(terms.total.isfinite())


@pytest.mark.parametrize("inside", [True, False])
def test_images_are_attacked_on_the_head_that_is_to_learn_them(inside, auxiliary, make_net, make_batch) -> None:
    model, (x, y) = make_net(), make_batch()
    method = started(auxiliary, threshold=0.0 if inside else 1.1)
    method.prepare(model)
    (other,) = method.examples(model, x, y).more
    network = nn.Sequential(model.features, method.head if inside else model.head)
    best = TPGD(Linf(EPS), steps=40).perturb(network, other.x, y)

    def divergence(x_adv: Tensor) -> float:
        with attacking(network):
            p, q = network(other.x), network(x_adv)
        return (p.softmax(1) * (p.log_softmax(1) - q.log_softmax(1))).sum().item()

    assert divergence(other.x_adv) > 0.8 * divergence(best) > 0
    assert (other.x_adv - other.x).abs().max() <= EPS + 1e-6


class TestDraw:
    def test_images_come_with_their_labels_and_from_the_seed(self, auxiliary, make_net, make_batch) -> None:
        x, y = make_batch(size=16)
        drawn = []
        for _ in range(2):
            torch.manual_seed(4)
            (other,) = started(auxiliary, threshold=0.0).examples(make_net(), x, y).more
            drawn.append(other)
        assert torch.equal(drawn[0].x, drawn[1].x)
        for image, label in zip(drawn[0].x, drawn[0].y.tolist(), strict=True):
            match = (auxiliary.images / 255 == image).flatten(1).all(1)
            assert match.sum() == 1
            assert auxiliary.labels[match].item() == label

    def test_a_source_is_read_and_augmented_in_its_own_way(self, auxiliary, make_net, make_batch) -> None:
        class Flipped(Digits):
            augment = Augment(padding=2, flip=True)

            def read(self, split: str) -> ImageData:
                assert split == "train"
                return auxiliary

        (other,) = started(Flipped(), threshold=0.0).examples(make_net(), *make_batch(size=16)).more
        known = {tuple(image.flatten().tolist()) for image in auxiliary.images / 255}
        assert any(tuple(image.flatten().tolist()) not in known for image in other.x)

    def test_a_data_set_of_the_library(self, make_net, make_batch) -> None:
        method = BiaMAT(Linf(EPS), auxiliary=Digits())
        (views,) = list(method.updates(make_net(), *make_batch()))
        assert views.more[0][0].adv.logits.shape == (8, 3 + 10)

    def test_images_of_another_shape_are_refused(self, auxiliary, make_net, make_batch) -> None:
        with pytest.raises(ValueError, match=r"auxiliary images have shape \(1, 8, 8\), primary ones \(3, 8, 8\)"):
            next(BiaMAT(Linf(EPS), auxiliary=auxiliary).updates(make_net(channels=3), *make_batch(channels=3)))


class TestHead:
    def test_learns_with_the_network(self, auxiliary, make_net, make_batch) -> None:
        model, objective = make_net(), Objective(started(auxiliary, threshold=0.0))
        groups = parameter_groups(model, objective, lr=0.1)
        assert [len(group["params"]) for group in groups] == [len(list(model.parameters())) + 2]
        before = objective.method.head.weight.detach().clone()
        fit(model, [make_batch()] * 2, objective, epochs=2, optimizer=torch.optim.SGD(groups), progress=False)
        assert not torch.equal(before, objective.method.head.weight)

    def test_missing_from_the_optimizer_is_refused(self, auxiliary, make_net, make_batch) -> None:
        model, objective = make_net(), Objective(BiaMAT(Linf(EPS), auxiliary=auxiliary))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with pytest.raises(ValueError, match="the optimizer lacks objective parameter 0"):
            fit(model, [make_batch()], objective, epochs=1, optimizer=optimizer, progress=False)

    def test_and_threshold_survive_an_interruption(self, auxiliary, make_net, make_batch) -> None:
        model, method = make_net(), started(auxiliary)
        list(method.updates(model, *make_batch()))
        state = {key: value.clone() for key, value in method.state_dict().items()}
        assert state.keys() == {"threshold", "head.weight", "head.bias"}
        other = BiaMAT(Linf(EPS), auxiliary=auxiliary)
        other.prepare(make_net())
        other.load_state_dict(state)
        other.prepare(make_net())
        assert all(torch.equal(value, state[key]) for key, value in other.state_dict().items())

    def test_needs_embeddings(self, auxiliary: ImageData) -> None:
        with pytest.raises(ValueError, match="auxiliary head needs embeddings"):
            BiaMAT(Linf(EPS), auxiliary=auxiliary).prepare(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))

    def test_a_model_that_does_not_take_the_images(self, auxiliary, make_net) -> None:
        with pytest.raises(ValueError, match="does not take images of the auxiliary set"):
            BiaMAT(Linf(EPS), auxiliary=auxiliary).prepare(make_net(channels=3))


def test_trains_a_network_in_double_precision(auxiliary, make_net, make_batch) -> None:
    net, (x, y) = make_net().double(), make_batch()
    (terms,) = Objective(started(auxiliary, 0.0, steps=1)).losses(net, x.double(), y)
    assert terms.total.dtype == torch.float64


def test_mistakes_are_refused(auxiliary: ImageData) -> None:
    with pytest.raises(ValueError, match="BiaMAT needs an auxiliary data set"):
        BiaMAT(Linf(EPS))
    for name in ("alpha", "beta", "warmup_epochs"):
        with pytest.raises(ValueError, match=f"{name}=-1"):
            BiaMAT(Linf(EPS), auxiliary=auxiliary, **{name: -1.0})
    with pytest.raises(ValueError, match="gamma=0 is outside"):
        BiaMAT(Linf(EPS), auxiliary=auxiliary, gamma=0.0)
