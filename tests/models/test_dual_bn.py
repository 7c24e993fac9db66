"""Two batch-norm branches: each is the plain model, and neither touches the other."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from protoat.models import (
    DualBatchNorm,
    LeNet,
    ResNet18,
    SecondBatchNorm,
    batch_norm_branch,
    dual_batch_norm,
    keep_branch,
    with_embedding,
)


class Awkward(nn.Module):
    """Names that say nothing, a layer that stands in two places, batch norm of several kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.adv = nn.Conv2d(1, 4, 3)
        self.clean = nn.BatchNorm2d(4)
        self.again = self.clean
        self.rest = nn.ModuleDict({"weight": nn.Sequential(nn.Flatten(), nn.Linear(4 * 36, 6), nn.BatchNorm1d(6))})
        self.group = nn.GroupNorm(2, 4)
        self.frozen = nn.BatchNorm1d(6, affine=False)
        self.batchwise = nn.BatchNorm1d(6, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        z = self.group(self.again(self.clean(self.adv(x)).relu()))
        result: Tensor = self.batchwise(self.frozen(self.rest["weight"](z)))
        return result


def warm(model: nn.Module, shape: tuple[int, ...] = (8, 1, 8, 8)) -> nn.Module:
    """With affine weights and statistics that are not those of a fresh layer."""
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
    model.train()
    with torch.no_grad():
        model(torch.rand(shape))
    return model


MODELS = {
    "awkward": (Awkward, (8, 1, 8, 8)),
    "lenet": (lambda: LeNet(3, 1, 28), (8, 1, 28, 28)),
    "resnet18": (lambda: ResNet18(3, 3, 16, width=0.125), (4, 3, 16, 16)),
}


def logits(model: nn.Module, x: Tensor) -> Tensor:
    result = model(x)
    return result if isinstance(result, Tensor) else result.logits


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("branch", ["clean", "adv"])
def test_either_branch_equals_the_plain_model_bit_for_bit(name: str, branch: str) -> None:
    make, shape = MODELS[name]
    plain = warm(make(), shape)
    dual, x = dual_batch_norm(plain), torch.rand(shape)
    for training in (True, False):
        reference = deepcopy(plain).train(training)
        candidate = deepcopy(dual).train(training)
        with batch_norm_branch(candidate, branch):
            expected, actual = logits(reference, x), logits(candidate, x)
            assert torch.equal(expected, actual)
            expected.square().sum().backward()
            actual.square().sum().backward()
        kept = keep_branch(candidate, branch)
        assert list(kept.state_dict()) == list(reference.state_dict())
        for key, value in reference.state_dict().items():
            assert torch.equal(kept.state_dict()[key], value), key
        gradients = [parameter.grad for parameter in reference.parameters()]
        trained = [parameter.grad for parameter in candidate.parameters() if parameter.grad is not None]
        assert all(torch.equal(one, other) for one, other in zip(gradients, trained, strict=True))


def test_branches_never_touch_each_others_statistics_or_gradients() -> None:
    dual = dual_batch_norm(warm(LeNet(3, 1, 28), (8, 1, 28, 28))).train()
    before = deepcopy(dual.state_dict())
    with batch_norm_branch(dual, "adv"):
        dual(torch.rand(8, 1, 28, 28)).logits.sum().backward()
    changed = {key for key, value in dual.state_dict().items() if not torch.equal(value, before[key])}
    assert changed and all(".adv." in key for key in changed)
    for name, parameter in dual.named_parameters():
        assert (parameter.grad is None) == (".clean." in name), name


def test_the_plain_model_is_left_alone_and_the_copy_shares_nothing_with_it() -> None:
    plain = warm(Awkward())
    before = deepcopy(plain.state_dict())
    dual = dual_batch_norm(plain).train()
    with batch_norm_branch(dual, "adv"):
        dual(torch.rand(8, 1, 8, 8))
    assert all(torch.equal(value, before[key]) for key, value in plain.state_dict().items())
    assert not any(isinstance(module, DualBatchNorm) for module in plain.modules())
    shared = {p.data_ptr() for p in plain.parameters()} & {p.data_ptr() for p in dual.parameters()}
    assert not shared


def test_a_layer_in_two_places_stays_one_layer_and_other_norms_stay_as_they_are() -> None:
    dual = dual_batch_norm(Awkward())
    assert dual.clean is dual.again
    assert isinstance(dual.clean, DualBatchNorm)
    assert isinstance(dual.group, nn.GroupNorm)
    kept = keep_branch(dual, "adv")
    assert kept.clean is kept.again
    assert isinstance(kept.clean, nn.BatchNorm2d)


def test_a_model_that_is_a_batch_norm_layer_itself() -> None:
    dual = dual_batch_norm(nn.BatchNorm1d(3))
    assert isinstance(dual, DualBatchNorm)
    assert isinstance(keep_branch(dual, "clean"), nn.BatchNorm1d)


def test_the_branch_comes_back_also_after_an_error_and_when_nested() -> None:
    dual = dual_batch_norm(Awkward())
    with pytest.raises(RuntimeError, match="inside"), batch_norm_branch(dual, "adv"):
        with batch_norm_branch(dual, "clean"):
            assert dual.clean.branch == "clean"
        assert dual.clean.branch == "adv"
        raise RuntimeError("inside")
    assert dual.clean.branch == "clean"


def test_state_dict_and_deepcopy_carry_both_branches() -> None:
    dual = dual_batch_norm(warm(Awkward())).train()
    with batch_norm_branch(dual, "adv"):
        dual(torch.rand(8, 1, 8, 8))
    other = dual_batch_norm(Awkward())
    other.load_state_dict(dual.state_dict())
    copied = deepcopy(dual)
    x = torch.rand(4, 1, 8, 8)
    with batch_norm_branch(dual, "adv"):
        assert copied.clean.branch == "clean"
    for branch in ("clean", "adv"):
        results = []
        for model in (dual, other, copied):
            with batch_norm_branch(model.eval(), branch):
                results.append(model(x))
        assert torch.equal(results[0], results[1])
        assert torch.equal(results[0], results[2])


def test_frozen_statistics_inside_attacks_reach_both_branches() -> None:
    from protoat.attacks import PGD
    from protoat.threats import Linf

    dual = dual_batch_norm(warm(LeNet(3, 1, 28), (8, 1, 28, 28))).train()
    before = deepcopy(dual.state_dict())
    attack = PGD(Linf(0.1), steps=2, bn="train_frozen")
    with batch_norm_branch(dual, "adv"):
        attack.perturb(dual, torch.rand(4, 1, 28, 28), torch.zeros(4, dtype=torch.int64))
    assert all(torch.equal(value, before[key]) for key, value in dual.state_dict().items())
    assert all(module.training for module in dual.modules())


def test_mistakes_are_refused() -> None:
    with pytest.raises(ValueError, match="Linear has no batch norm"):
        dual_batch_norm(nn.Linear(2, 2))
    dual = dual_batch_norm(Awkward())
    with pytest.raises(ValueError, match="two batch-norm branches already"):
        dual_batch_norm(dual)
    with pytest.raises(ValueError, match="branch='pgd' is unknown"):
        keep_branch(dual, "pgd")
    with pytest.raises(ValueError, match="convert it with dual_batch_norm first"), batch_norm_branch(Awkward(), "adv"):
        pass


class TestSecondBatchNorm:
    def test_takes_the_place_and_gives_it_back(self) -> None:
        model = warm(Awkward())
        own, names = list(model.modules()), list(model.state_dict())
        second, x = SecondBatchNorm(model), torch.rand(8, 1, 8, 8)
        before = deepcopy(model.state_dict())
        reference = deepcopy(model)
        with pytest.raises(RuntimeError, match="inside"), second.in_place_of(model):
            assert torch.equal(model(x), reference(x))
            raise RuntimeError("inside")
        assert list(model.modules()) == own
        assert list(model.state_dict()) == names
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        assert torch.equal(second.layers[0].running_mean, reference.clean.running_mean)
        assert not torch.equal(second.layers[0].running_mean, model.clean.running_mean)

    def test_runs_in_the_mode_of_the_layers_it_replaces(self) -> None:
        model = warm(Awkward())
        second = SecondBatchNorm(model)
        model.eval()
        with second.in_place_of(model):
            assert not any(module.training for module in model.modules())

    def test_a_model_without_batch_norm_has_none(self) -> None:
        model = nn.Linear(2, 2)
        second = SecondBatchNorm(model)
        with second.in_place_of(model):
            assert model(torch.zeros(1, 2)).shape == (1, 2)
        assert list(second.parameters()) == []


@pytest.mark.parametrize("branch", ["clean", "adv"])
def test_an_embedding_read_off_a_batch_norm_layer_is_found_in_either_set(branch: str) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))
    model = with_embedding(net, "2")
    x = torch.rand(8, 1, 4, 4)
    dual = dual_batch_norm(model)
    with batch_norm_branch(dual, branch):
        assert torch.equal(dual(x).embedding, model(x).embedding)
    with SecondBatchNorm(model).in_place_of(model):
        assert model(x).embedding.shape == (8, 5)
