"""Folds batch norm into the preceding layers while a model is attacked."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.nn.utils.parametrize import is_parametrized

from protoat.attacks.mode import attacking
from protoat.functional.forward import output_of
from protoat.functional.preserve import preserve_random_state
from protoat.models.memory_format import narrow_layer

_BEFORE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_TOLERANCE = 1e-4
Swap = tuple[nn.Module, str, nn.Module]


class FoldedBatchNorm:
    """Lets the convolutions and linear layers of a model do the work of the batch norm that follows them.

    In eval mode both are linear, so one layer can stand for the two: the same function, up to rounding, for less time.
    On a CPU the folded convolutions have their channels last, which those after them take over, for less time again.
    Nothing is folded where the model is random, or where the folded one does not give the same outputs for `example`.

    Args:
        model: any network; a layer that is used twice, is parametrised (weight or spectral norm) or has hooks is left
            alone. Its weights and running statistics must not change as long as this object is used.
        example: (B, ...) images in [0, 1].

    Attributes:
        count: how many batch-norm layers are folded.

    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
    >>> folded = FoldedBatchNorm(net, torch.rand(2, 1, 5, 5))
    >>> with folded.in_place():
    ...     folded.count, type(net[1]).__name__
    (1, 'Identity')
    >>> type(net[1]).__name__
    'BatchNorm2d'
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self.count = 0
        self._swaps: list[Swap] = []
        if any(type(module) in _NORMS for module in model.modules()):
            with attacking(model), torch.no_grad(), preserve_random_state(example.device):
                try:
                    pairs = _pairs(model, example)
                    swaps = _swaps(model, pairs)
                except Exception:  # a model that reaches into its own layers says in its own way that they are others
                    return
                on_cpu = example.device.type == "cpu" and narrow_layer(model) is None
                for choice in (_channels_last(swaps), swaps) if on_cpu else (swaps,):
                    with suppress(Exception):  # as above; `view` refuses maps whose channels come last
                        if pairs and _same(model, example, choice):
                            self.count, self._swaps = len(pairs), choice
                            return

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the model is the folded one, to be used in eval mode; its own layers come back, also on errors."""
        with _swapped(self._swaps):
            yield


def _pairs(model: nn.Module, example: Tensor) -> list[tuple[nn.Module, nn.Module]]:
    """Each layer whose output a batch norm took as it was, and that batch norm."""
    calls: Counter[nn.Module] = Counter()
    outputs: dict[int, tuple[nn.Module, Tensor]] = {}  # holds the tensors, so that no address is used again
    pairs = []

    def leaves(module: nn.Module, _: Any, output: Tensor) -> None:
        calls[module] += 1
        outputs[id(output)] = module, output

    def enters(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls[module] += 1
        if id(inputs[0]) in outputs:
            pairs.append((outputs[id(inputs[0])][0], module))

    plain = [
        module
        for module in model.modules()
        if not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or is_parametrized(module))
    ]
    with ExitStack() as hooks:
        for module in plain:
            if isinstance(module, _BEFORE):
                hooks.callback(module.register_forward_hook(leaves).remove)
            elif type(module) in _NORMS and module.running_mean is not None:
                hooks.callback(module.register_forward_pre_hook(enters).remove)
        output_of(model, example)
    return [pair for pair in pairs if calls[pair[0]] == calls[pair[1]] == 1]


def _swaps(model: nn.Module, pairs: Sequence[tuple[nn.Module, nn.Module]]) -> list[Swap]:
    """(parent, name, new child) for every place that holds one of a pair."""
    new: dict[nn.Module, nn.Module] = {}
    for before, norm in pairs:
        fuse: Any = fuse_linear_bn_eval if isinstance(before, nn.Linear) else fuse_conv_bn_eval
        new |= {before: fuse(before, norm), norm: nn.Identity()}
    children = [(parent, name, child) for parent in model.modules() for name, child in parent._modules.items()]
    return [(parent, name, new[child]) for parent, name, child in children if child in new]


def _channels_last(swaps: Sequence[Swap]) -> list[Swap]:
    """The same with convolutions over pixels whose weights, and so whose maps, have their channels last."""
    new: dict[nn.Module, nn.Module] = {
        child: copy.deepcopy(child).to(memory_format=torch.channels_last)
        for _, _, child in swaps
        if isinstance(child, nn.Conv2d)
    }
    return [(parent, name, new.get(child, child)) for parent, name, child in swaps]


def _same(model: nn.Module, example: Tensor, swaps: Sequence[Swap]) -> bool:
    """Whether `model` gives the same outputs twice, and once more when swapped."""
    first, again = output_of(model, example), output_of(model, example)
    if not all(torch.equal(a, b) for a, b in zip(first, again, strict=True)):
        return False
    with _swapped(swaps):
        folded = output_of(model, example)
    return all(
        a.shape == b.shape and bool(torch.allclose(a, b, rtol=_TOLERANCE, atol=_TOLERANCE * float(a.abs().max())))
        for a, b in zip(first, folded, strict=True)
        if a.numel()
    )


@contextmanager
def _swapped(swaps: Sequence[Swap]) -> Iterator[None]:
    own = [(parent, name, parent._modules[name]) for parent, name, _ in swaps]
    try:
        for parent, name, child in swaps:
            parent._modules[name] = child
        yield
    finally:
        for parent, name, before in own:
            parent._modules[name] = before
