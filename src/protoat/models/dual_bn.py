"""Dual batch norm: two sets of batch-norm layers over shared weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from protoat.arguments import check_choice
from protoat.errors import UserError

Branch = Literal["clean", "adv"]


class DualBatchNorm(nn.Module):
    """Two batch-norm layers in the place of one; a forward passes through one and leaves the other untouched.

    Args:
        norm: becomes the clean branch; the adversarial one starts as its copy.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.clean = norm
        self.adv = _copy(norm)
        self.branch: Branch = "clean"

    def forward(self, x: Tensor) -> Tensor:
        return self.clean(x) if self.branch == "clean" else self.adv(x)


def dual_batch_norm(model: nn.Module) -> nn.Module:
    """A copy of `model` with two branches, ``clean`` and ``adv``, of every batch-norm layer; both share all else.

    Either branch computes what the plain model does, bit for bit. The copy is in branch ``clean`` until
    `batch_norm_branch` says otherwise; its optimizer must be built after the conversion.

    Args:
        model: any network; layers are found by their class, so names do not matter.

    Raises:
        ValueError: there is no batch norm, or it is dual already.

    Source: Xie et al., CVPR 2020 (AdvProp); Jiang et al., NeurIPS 2020 (ACL).

    >>> dual = dual_batch_norm(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)))
    >>> sorted(name for name, _ in dual.named_parameters())
    ['0.bias', '0.weight', '1.adv.bias', '1.adv.weight', '1.clean.bias', '1.clean.weight']
    """
    if any(isinstance(module, DualBatchNorm) for module in model.modules()):
        raise UserError("the model has two batch-norm branches already; choose one with batch_norm_branch")
    if not any(isinstance(module, _BatchNorm) for module in model.modules()):
        raise UserError(f"{type(model).__name__} has no batch norm, so there is nothing to double")
    return replaced(deepcopy(model), _BatchNorm, DualBatchNorm)


def keep_branch(model: nn.Module, branch: Branch) -> nn.Module:
    """A plain copy of a model that `dual_batch_norm` made, with the batch norm of one branch.

    Args:
        model: with two branches.
        branch: ``"clean"`` or ``"adv"``.

    Raises:
        ValueError: an unknown branch, or no dual batch norm.

    >>> plain = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    >>> list(keep_branch(dual_batch_norm(plain), "adv").state_dict()) == list(plain.state_dict())
    True
    """
    _layers_of(model, branch)
    return replaced(deepcopy(model), DualBatchNorm, lambda dual: dual.get_submodule(branch))


@contextmanager
def batch_norm_branch(model: nn.Module, branch: Branch) -> Iterator[None]:
    """Forwards of `model` inside use this branch; at the end, also on errors, each layer is back in the one it was in.

    Args:
        model: with two branches, wrapped by ``DistributedDataParallel`` or not.
        branch: ``"clean"`` or ``"adv"``.

    Raises:
        ValueError: an unknown branch, or no dual batch norm.

    >>> import torch
    >>> dual = dual_batch_norm(nn.Sequential(nn.BatchNorm1d(3)))
    >>> with batch_norm_branch(dual, "adv"):
    ...     _ = dual(torch.rand(8, 3))
    >>> dual[0].adv.num_batches_tracked.item(), dual[0].clean.num_batches_tracked.item()
    (1, 0)
    """
    layers = _layers_of(model, branch)
    before = [layer.branch for layer in layers]
    for layer in layers:
        layer.branch = branch
    try:
        yield
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer.branch = was


class SecondBatchNorm(nn.Module):
    """Another set of batch-norm layers for a model that stays as it is; it takes the place of its own for a while.

    A model without batch norm has an empty second set.

    Args:
        model: whose batch-norm layers are copied, affine weights and running statistics included.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    >>> second = SecondBatchNorm(model)
    >>> with second.in_place_of(model):
    ...     model[1] is second.layers[0]
    True
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_copy(module) for module in _batch_norms(model))

    @contextmanager
    def in_place_of(self, model: nn.Module) -> Iterator[None]:
        """`model` uses this set inside, in the mode of its own layers; its own come back at the end, also on errors."""
        own = _batch_norms(model)
        for layer, absent in zip(self.layers, own, strict=True):
            layer.training = absent.training
        second = dict(zip(own, self.layers, strict=True))
        places = [(parent, name, child) for parent, name, child in _places(model, _BatchNorm) if child in second]
        try:
            for parent, name, child in places:
                setattr(parent, name, second[child])
            yield
        finally:
            for parent, name, child in places:
                setattr(parent, name, child)


def _copy(norm: nn.Module) -> nn.Module:
    """A copy that shares its hooks: one that reads an embedding off the layer must not take the model along."""
    return deepcopy(norm, {id(value): value for name, value in vars(norm).items() if "hooks" in name})


def _batch_norms(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def _layers_of(model: nn.Module, branch: str) -> list[DualBatchNorm]:
    check_choice(Branch, branch=branch)
    layers = [module for module in model.modules() if isinstance(module, DualBatchNorm)]
    if not layers:
        raise UserError("the model has one set of batch-norm layers; convert it with dual_batch_norm first")
    return layers


def _places(model: nn.Module, kind: type[nn.Module]) -> list[tuple[nn.Module, str, nn.Module]]:
    """(parent, name, child) of every place that holds a module of this kind."""
    return [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent._modules.items()
        if isinstance(child, kind)
    ]


def replaced(model: nn.Module, kind: type[nn.Module], replace: Callable[[Any], nn.Module]) -> nn.Module:
    """`model`, changed in place, with another module wherever one of this kind stands."""
    if isinstance(model, kind):
        return replace(model)
    made: dict[nn.Module, nn.Module] = {}
    for parent, name, child in _places(model, kind):
        if child not in made:  # one layer may stand in several places
            made[child] = replace(child)
        setattr(parent, name, made[child])
    return model
