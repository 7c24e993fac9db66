"""The meeting point of method and regularizer: which terms, on which embeddings, with which state."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from protoat import Objective
from protoat.data import ImageData
from protoat.methods import AWP, CFA, DAJAT, PGDAT, BiaMAT, FastAT, FreeAT, Method, Standard
from protoat.regularizers import TLA, NPair, ProxyAnchor, ProxyNCA, Regularizer, SoftTriple, Triplet
from protoat.types import Linf, Output, Views

THREAT = Linf(0.1)
Y = torch.tensor([0, 1, 0, 1])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.BatchNorm1d(5), nn.ReLU())
        self.head = nn.Linear(5, 2)
        self.trained_on: list[Tensor] = []

    def forward(self, x: Tensor) -> Output:
        if self.training:
            self.trained_on.append(x.detach())
        embedding = self.body(x)
        return Output(self.head(embedding), embedding)


class Noting(Regularizer):
    """Notes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, embedding: Tensor, y: Tensor) -> Tensor:
        self.seen.append((embedding, y))
        return embedding.sum()


class WithClean(Method):
    """Makes both views, as TRADES does."""

    def updates(self, model: nn.Module, x: Tensor, y: Tensor) -> Iterator[Views]:
        x_adv = (x + 0.1).clamp(0, 1)
        yield Views(x_adv, model(x_adv), model(x))


def only(objective: Objective, net: nn.Module, x: Tensor) -> Any:
    (terms,) = objective.losses(net, x, Y)
    return terms


def test_terms_are_weighted_and_sum_to_the_total() -> None:
    net, noting = Net(), Noting()
    terms = only(Objective(PGDAT(THREAT), noting, weight=0.3, norm_weight=0.7), net, torch.rand(4, 3, 2, 2))
    ((embedding, y),) = noting.seen
    torch.testing.assert_close(terms.metric, 0.3 * embedding.sum())
    torch.testing.assert_close(terms.norm, 0.7 * embedding.double().pow(2).mean().float())
    torch.testing.assert_close(terms.total, terms.base + terms.metric + terms.norm)
    assert torch.equal(y, Y)
    terms = only(Objective(PGDAT(THREAT)), net, torch.rand(4, 3, 2, 2))
    assert terms.metric is None
    assert terms.norm is None


def test_norm_of_the_weights_is_the_sum_of_squared_kernels() -> None:
    net = Net()
    terms = only(Objective(PGDAT(THREAT), Noting(), norm_weight=0.2, norm="weights"), net, torch.rand(4, 3, 2, 2))
    kernels = [net.body[1].weight, net.head.weight]
    expected = sum(float(v) ** 2 for kernel in kernels for v in kernel.detach().double().flatten())
    assert terms.norm.item() == pytest.approx(0.2 * expected, rel=1e-6)
    gradients = torch.autograd.grad(terms.norm, list(net.parameters()), allow_unused=True)
    for parameter, gradient in zip(net.parameters(), gradients, strict=True):
        if parameter.dim() > 1:
            torch.testing.assert_close(gradient, 2 * 0.2 * parameter)
        else:
            assert gradient is None


def test_norm_of_the_weights_needs_no_embedding_and_leaves_prototypes_out() -> None:
    plain = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    terms = only(Objective(PGDAT(THREAT), norm_weight=0.1, norm="weights"), plain, torch.rand(4, 3, 2, 2))
    torch.testing.assert_close(terms.norm, 0.1 * plain[1].weight.square().sum())
    proxies = ProxyNCA(2, 5)
    terms = only(Objective(PGDAT(THREAT), proxies, norm_weight=0.1, norm="weights"), Net(), torch.rand(4, 3, 2, 2))
    assert torch.autograd.grad(terms.norm, proxies.loss.proxies, allow_unused=True) == (None,)


@pytest.mark.parametrize("dml_input", ["adv", "clean", "both"])
@pytest.mark.parametrize("method", [PGDAT(THREAT, steps=1), WithClean(THREAT)])
def test_which_embeddings_the_metric_term_sees(method: Method, dml_input: Any) -> None:
    torch.manual_seed(3)
    net, noting = Net(), Noting()
    x = torch.rand(4, 3, 2, 2)
    terms = only(Objective(method, noting, dml_input=dml_input, norm_weight=1.0), net, x)
    forwards = 1 if isinstance(method, PGDAT) and dml_input == "adv" else 2
    assert len(net.trained_on) == forwards, "the method's clean view is used; otherwise one more forward"
    adversarial, clean = net.body(net.trained_on[0]), net.body(x)
    expected = {"adv": adversarial, "clean": clean, "both": torch.cat([adversarial, clean])}[dml_input]
    ((embedding, y),) = noting.seen
    torch.testing.assert_close(embedding, expected)
    torch.testing.assert_close(y, Y if dml_input != "both" else torch.cat([Y, Y]))
    torch.testing.assert_close(terms.norm, adversarial.square().mean())
    assert not torch.equal(net.trained_on[0], x)


def test_both_views_of_free_training_stay_with_one_backward() -> None:
    net = Net()
    objective = Objective(FreeAT(THREAT, replays=3), Triplet(2, 5, margin=1.0), dml_input="both")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for terms in objective.losses(net, torch.rand(4, 3, 2, 2), Y):
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()
    assert objective.method.perturbation.any()
    assert len(net.trained_on) == 6


@pytest.mark.parametrize("kind", [TLA, Triplet, NPair, ProxyNCA, ProxyAnchor, SoftTriple])
@pytest.mark.parametrize(
    "method", [Standard(THREAT), PGDAT(THREAT, steps=1), FastAT(THREAT), FreeAT(THREAT, replays=2)]
)
def test_every_pair_trains_what_it_must(method: Method, kind: type[Any]) -> None:
    net, regularizer = Net(), kind(2, 5)
    objective = Objective(method, regularizer, norm_weight=0.01)
    x = torch.rand(4, 3, 2, 2)
    for terms in objective.losses(net, x, Y):
        net.zero_grad()
        regularizer.zero_grad()
        assert terms.total.isfinite()
        terms.total.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in [*net.parameters(), *objective.parameters()])
        assert all(p.grad.any() for p in objective.parameters())


def test_state_round_trip_keeps_the_parts_apart() -> None:
    x = torch.rand(4, 3, 2, 2)
    first = Objective(FreeAT(THREAT, replays=1), TLA(2, 5, mul_num=2))
    for terms in first.losses(Net(), x, Y):
        terms.total.backward()
    state = first.state_dict()
    assert set(state) == {"method.perturbation", "method.regularizer.pool_x", "method.regularizer.pool_y"}
    second = Objective(FreeAT(THREAT, replays=1), TLA(2, 5, mul_num=2))
    second.load_state_dict(state)
    for key, value in second.state_dict().items():
        torch.testing.assert_close(value, state[key])
    proxies = Objective(PGDAT(THREAT), ProxyAnchor(2, 5))
    assert set(proxies.state_dict()) == {"regularizer.loss.proxies"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": -0.5}, "weight=-0.5 and norm_weight=0 must not be negative"),
        ({"norm_weight": -1}, "must not be negative"),
        ({"norm": "l2"}, "norm='l2' is unknown; write 'embedding' or 'weights'"),
        ({"dml_input": "all"}, "dml_input='all' is unknown"),
        ({"dml_input": "both", "regularizer": TLA(2, 5)}, "TLA chooses its own inputs; leave dml_input at 'adv'"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Objective(PGDAT(THREAT), **arguments)


@pytest.mark.parametrize("arguments", [{"norm_weight": 0.1}, {"regularizer": Triplet(2, 5)}])
def test_a_model_without_embeddings_is_refused(arguments: dict[str, Any]) -> None:
    plain = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    with pytest.raises(ValueError, match="the model returns logits only"):
        only(Objective(PGDAT(THREAT), **arguments), plain, torch.rand(4, 3, 2, 2))


AUXILIARY = ImageData(torch.zeros(4, 3, 2, 2, dtype=torch.uint8), torch.arange(4) % 2, ("a", "b"))


def own_loop(objective: Objective, epochs: int = 4, *, says: bool = False, ends: bool = False) -> None:
    """The loop of the README, with or without the calls that say where it is."""
    torch.manual_seed(0)
    model = Net()
    objective.prepare(model)
    optimizer = torch.optim.SGD([*model.parameters(), *objective.parameters()], lr=0.1)
    loader = [(torch.rand(4, 3, 2, 2), Y)] * 2
    for epoch in range(epochs):
        for done, (x, y) in enumerate(loader):
            if says:
                objective.at_epoch(epoch + done / len(loader), epochs)
            for terms in objective.losses(model, x, y):
                optimizer.zero_grad()
                terms.total.backward()
                optimizer.step()
        if ends:
            objective.end_epoch(epoch + 1, epochs, model, optimizer)


class TestALoopOfTheUsers:
    @pytest.mark.parametrize(
        ("method", "given_up"),
        [
            (PGDAT(THREAT, steps=1, ramp_epochs=2), "the radius does not grow"),
            (FastAT(THREAT), "nothing watches for catastrophic overfitting"),
            (CFA(THREAT, steps=1), "classes are not calibrated"),
            (
                AWP(THREAT, method=partial(PGDAT, steps=1), start_epoch=2),
                "weights are perturbed from the first step on",
            ),
            (BiaMAT(THREAT, auxiliary=AUXILIARY, steps=1), "there is no warm-up"),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, Method) else "",
    )
    def test_that_says_no_epoch_is_warned_once(
        self, method: Method, given_up: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        own_loop(Objective(method))
        (warning,) = caplog.messages
        assert given_up in warning
        assert "objective.at_epoch(epoch, epochs)" in warning and "objective.end_epoch(" in warning

    @pytest.mark.parametrize("says", [False, True])
    def test_that_never_ends_an_epoch_is_told_that_prototypes_never_merge(
        self, says: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        objective = Objective(PGDAT(THREAT, steps=1), SoftTriple(2, 5, prototypes_per_class=4, merge_threshold=1.99))
        own_loop(objective, says=says)
        assert objective.regularizer.active.all()
        assert [("prototypes never merge" in message) for message in caplog.messages] == [True]

    def test_that_makes_both_calls_merges_and_hears_nothing(self, caplog: pytest.LogCaptureFixture) -> None:
        metric = SoftTriple(2, 5, prototypes_per_class=4, merge_threshold=1.99)
        own_loop(Objective(FastAT(THREAT, ramp_epochs=2, guard_drop=0.99), metric), says=True, ends=True)
        assert metric.active.sum() < 8
        assert caplog.messages == []

    def test_hears_nothing_where_nothing_depends_on_epochs(self, caplog: pytest.LogCaptureFixture) -> None:
        own_loop(Objective(PGDAT(THREAT, steps=1), SoftTriple(2, 5, merge_threshold=None)))
        own_loop(Objective(Standard(THREAT, ramp_epochs=3)))
        assert caplog.messages == []

    @pytest.mark.parametrize("method", [PGDAT(THREAT, ramp_epochs=5), DAJAT(THREAT), AWP(THREAT, ramp_epochs=5)])
    def test_trains_at_full_strength(self, method: Method) -> None:
        assert method.eps == THREAT.eps

    def test_may_start_in_the_middle(self, caplog: pytest.LogCaptureFixture) -> None:
        objective = Objective(PGDAT(THREAT, steps=1, ramp_epochs=9))
        objective.at_epoch(5.5, 9)
        only(objective, Net(), torch.rand(4, 3, 2, 2))
        assert caplog.messages == []


def test_training_in_eval_mode_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    net, objective = Net(), Objective(Standard(THREAT))
    x = torch.rand(4, 3, 2, 2)
    only(objective, net.train(), x)
    assert not caplog.records
    only(objective, net.eval(), x)
    only(objective, net, x)
    assert caplog.text.count("the model trains in eval mode") == 1


def test_prototypes_that_the_optimizer_lacks_are_said(caplog: pytest.LogCaptureFixture) -> None:
    net = Net()
    for learnt, said in ((lambda own: [*net.parameters(), *own.parameters()], 0), (lambda own: net.parameters(), 1)):
        objective = Objective(Standard(THREAT), SoftTriple(2, 5, prototypes_per_class=2))
        optimizer = torch.optim.SGD(learnt(objective), lr=0.1)
        for epoch in (1, 2):
            objective.end_epoch(epoch, 2, net, optimizer)
        assert caplog.text.count("the optimizer lacks what the objective learns, such as prototypes") == said


@pytest.mark.parametrize(
    ("arguments", "found"),
    [((None,), "None"), (("pgd",), "'pgd'"), ((PGDAT,), "PGDAT"), ((PGDAT(Linf(0.1)), "triple"), "'triple'")],
)
def test_parts_of_another_kind_are_named(arguments: tuple[Any, ...], found: str) -> None:
    with pytest.raises(TypeError, match=found):
        Objective(*arguments)
