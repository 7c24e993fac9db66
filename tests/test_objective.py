"""The meeting point of method and regularizer: which terms, on which embeddings, with which state."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from protoat import Objective
from protoat.attacks import PGD, Transfer
from protoat.methods import (
    AWP,
    CFA,
    DAJAT,
    PGDAT,
    AdversarialTraining,
    Distillation,
    FastAT,
    FreeAT,
    Method,
    Standard,
)
from protoat.regularizers import TLA, NPair, ProxyAnchor, ProxyNCA, Regularizer, SoftTriple, Triplet
from protoat.threats import Linf
from protoat.types import Forwards, Output

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

    def updates(self, model: nn.Module, x: Tensor, y: Tensor) -> Iterator[Forwards]:
        x_adv = (x + 0.1).clamp(0, 1)
        yield Forwards(x_adv, model(x_adv), model(x))


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
    assert set(state) == {"method.perturbation", "regularizer.pool_x", "regularizer.pool_y"}
    second = Objective(FreeAT(THREAT, replays=1), TLA(2, 5, mul_num=2))
    second.load_state_dict(state)
    for key, value in second.state_dict().items():
        torch.testing.assert_close(value, state[key])
    proxies = Objective(PGDAT(THREAT), ProxyAnchor(2, 5))
    statistics = {f"regularizer.project.0.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert set(proxies.state_dict()) == {"regularizer.loss.proxies", *statistics}


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


LOADER = [(torch.rand(4, 3, 2, 2, generator=torch.Generator().manual_seed(i)), Y) for i in range(2)]


def prepared(objective: Objective) -> tuple[Net, torch.optim.Optimizer]:
    torch.manual_seed(0)
    net = Net()
    objective.prepare(net)
    return net, torch.optim.SGD([*net.parameters(), *objective.parameters()], lr=0.1, momentum=0.9)


def step(objective: Objective, net: Net, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    torch.manual_seed(0)
    for terms in objective.losses(net, x, y):
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()


def everything(*parts: Any) -> list[Any]:
    return copy.deepcopy([part.state_dict() for part in parts])


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


class Guarded(Method):
    """Asks to stop at the end of one pass."""

    def __init__(self, last: int) -> None:
        super().__init__(THREAT)
        self.last = last

    def updates(self, model: nn.Module, x: Tensor, y: Tensor) -> Iterator[Forwards]:
        yield Forwards(x, model(x))

    def end_epoch(self, model: nn.Module) -> str | None:
        return "it fell" if self._epoch == self.last else None


class TestEpochs:
    def test_ramps_follow_the_batches_and_prototypes_merge(self) -> None:
        metric = SoftTriple(2, 5, prototypes_per_class=4, merge_threshold=1.99, merge_start=0.5)
        objective = Objective(PGDAT(THREAT, steps=1, ramp_epochs=2), metric)
        net, optimizer = prepared(objective)
        radii, prototypes = [], []
        for epoch in objective.epochs(3, net, optimizer):
            for x, y in epoch.batches(LOADER):
                radii.append(objective.method.eps)
                prototypes.append(int(metric.active.sum()))
                step(objective, net, optimizer, x, y)
        assert radii == pytest.approx([0, 0.025, 0.05, 0.075, 0.1, 0.1])
        assert prototypes == [8, 8, 8, 8, 2, 2]
        assert (epoch.number, epoch.epochs, objective.stopped) == (3, 3, None)

    def test_an_epoch_may_be_ended_by_hand_to_see_what_it_brought(self) -> None:
        metric = SoftTriple(2, 5, prototypes_per_class=4, merge_threshold=1.99, merge_start=0, drop_below=None)
        objective = Objective(PGDAT(THREAT, steps=1), metric)
        net, optimizer = prepared(objective)
        merges = []
        for epoch in objective.epochs(2, net, optimizer):
            for x, y in epoch.batches(LOADER):
                step(objective, net, optimizer, x, y)
            merges.append(len(epoch.end().facts["merged"]))
            assert epoch.end() is epoch.end()
        assert merges == [6, 0]

    def test_that_iterates_the_loader_itself_is_told(self) -> None:
        objective = Objective(PGDAT(THREAT, steps=1, ramp_epochs=2))
        net, optimizer = prepared(objective)
        with pytest.raises(
            RuntimeError, match=r"epoch 1 knows no batches; write `for x, y in epoch.batches\(loader\)`"
        ):
            for _ in objective.epochs(3, net, optimizer):
                for x, y in LOADER:
                    step(objective, net, optimizer, x, y)

    def test_a_loader_without_a_length_needs_one(self) -> None:
        objective = Objective(PGDAT(THREAT, steps=1, ramp_epochs=1))
        epoch = next(objective.epochs(1, Net()))
        with pytest.raises(TypeError, match=r"epoch.batches\(loader, length=...\)"):
            next(epoch.batches(iter(LOADER)))
        assert [objective.method.eps for _ in epoch.batches(iter(LOADER), length=2)] == pytest.approx([0, 0.05])

    def test_a_stop_goes_back_to_before_the_pass(self, caplog: pytest.LogCaptureFixture) -> None:
        objective = Objective(Guarded(last=2), SoftTriple(2, 5, prototypes_per_class=2, merge_threshold=None))
        net, optimizer = prepared(objective)
        seen, before = [], []
        for epoch in objective.epochs(5, net, optimizer):
            seen.append(epoch.number)
            before.append(everything(net, objective, optimizer))
            for x, y in epoch.batches(LOADER):
                step(objective, net, optimizer, x, y)
        assert seen == [1, 2] and objective.stopped == "it fell"
        assert caplog.messages[-1:] == ["stopped and went back to the end of epoch 1: it fell"]
        assert same(everything(net, objective, optimizer), before[1]) and not same(before[0], before[1])

    @pytest.mark.parametrize(
        "method", [FastAT(THREAT, guard=False), CFA(THREAT, steps=1, start_epoch=1), Distillation(THREAT)]
    )
    def test_goes_on_after_passes_that_were_made_before(self, method: Method) -> None:
        def run(objective: Objective, net: Net, optimizer: torch.optim.Optimizer, done: int, stop: int) -> list[Any]:
            for epoch in objective.epochs(4, net, optimizer, done=done):
                for x, y in epoch.batches(LOADER):
                    step(objective, net, optimizer, x, y)
                epoch.end()
                if epoch.number == stop:
                    break
            return everything(net, objective, optimizer)

        def fresh() -> tuple[Objective, Net, torch.optim.Optimizer]:
            torch.manual_seed(1)
            objective = Objective(copy.deepcopy(method), SoftTriple(2, 5, prototypes_per_class=2))
            return objective, *prepared(objective)

        whole = run(*fresh(), 0, 4)
        half = run(*fresh(), 0, 2)
        objective, net, optimizer = fresh()
        assert not same(everything(net, objective, optimizer), half)
        for part, state in zip((net, objective, optimizer), half, strict=True):
            part.load_state_dict(state)
        assert same(run(objective, net, optimizer, 2, 4), whole)

    @pytest.mark.parametrize("arguments", [{"epochs": 0}, {"epochs": 2, "done": 3}, {"epochs": 2, "done": -1}])
    def test_numbers_that_cannot_be_meant(self, arguments: dict[str, int]) -> None:
        with pytest.raises(ValueError, match=r"epochs|done"):
            next(Objective(Standard(THREAT)).epochs(model=Net(), **arguments))

    @pytest.mark.parametrize("method", [PGDAT(THREAT, ramp_epochs=5), DAJAT(THREAT), AWP(THREAT, ramp_epochs=5)])
    def test_outside_of_them_training_is_at_full_strength(self, method: Method) -> None:
        assert method.eps == THREAT.eps


class TestItIsAModule:
    def test_a_teacher_keeps_its_mode_whatever_the_objective_is_in(self) -> None:
        objective = Objective(Distillation(THREAT, teacher_epochs=1))
        net, optimizer = prepared(objective)
        objective.method.at_epoch(1.0, 4)
        before = everything(objective)
        for mode in (objective.train, objective.eval):
            mode()
            step(objective, net, optimizer, *LOADER[0])
            assert same(everything(objective), before), "neither weights nor statistics of batch norm move"

    def test_the_model_of_an_attack_is_no_part_of_it(self) -> None:
        source = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
        objective = Objective(AdversarialTraining(Transfer(PGD(THREAT, steps=1), source, name="source")))
        assert list(objective.parameters()) == [] and objective.state_dict() == {}

    def test_a_copy_learns_apart(self) -> None:
        objective = Objective(FreeAT(THREAT, replays=2), SoftTriple(2, 5, prototypes_per_class=2))
        net, optimizer = prepared(objective)
        step(objective, net, optimizer, *LOADER[0])
        other, before = copy.deepcopy(objective), everything(objective)
        step(other, net, torch.optim.SGD(other.parameters(), lr=1.0), *LOADER[1])
        assert same(everything(objective), before) and not same(everything(other), before)

    def test_to_moves_what_it_learns_and_remembers(self) -> None:
        objective = Objective(FreeAT(THREAT, replays=2), SoftTriple(2, 5, prototypes_per_class=2))
        step(objective, *prepared(objective), *LOADER[0])
        assert {value.device.type for value in objective.to("meta").state_dict().values()} == {"meta"}


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
        next(objective.epochs(2, net, optimizer))
        assert caplog.text.count("the optimizer lacks what the objective learns, such as prototypes") == said


@pytest.mark.parametrize(
    ("arguments", "found"),
    [((None,), "None"), (("pgd",), "'pgd'"), ((PGDAT,), "PGDAT"), ((PGDAT(Linf(0.1)), "triple"), "'triple'")],
)
def test_parts_of_another_kind_are_named(arguments: tuple[Any, ...], found: str) -> None:
    with pytest.raises(TypeError, match=found):
        Objective(*arguments)
