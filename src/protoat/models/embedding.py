"""Makes any classifier return its embedding beside its logits."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

import torch
from torch import Tensor, nn

from protoat.functional.kept import modes_kept
from protoat.models.normalize import normalization
from protoat.types import Output, as_output

__all__ = ["WithEmbedding", "with_embedding"]

_NAMES_SHOWN = 20


def with_embedding(
    module: nn.Module,
    layer: str = "avgpool",
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    example: Tensor | None = None,
) -> WithEmbedding:
    """Wraps a classifier so that it returns `Output`: its logits, and what `layer` gave on the way to them.

    Args:
        module: images -> logits, or an object with an attribute ``logits``. It is used as it is, not copied.
        layer: name of a layer, as in ``module.named_modules()``. The usual choice is the one before the last linear
            layer. Maps (B, D, H, W) are averaged over their pixels, other shapes are flattened to (B, D). A layer that
            runs several times in one forward gives its last output.
        mean, std: normalisation in front of a module that expects it, since its pixels will come in [0, 1].
        example: (B, ...) images for one forward in eval mode, after which `embedding_dim` is known at once.

    Raises:
        ValueError: an unknown layer, with the names there are; in use, a layer that did not run or gave no tensor.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> model = with_embedding(net, "2", example=torch.zeros(1, 1, 2, 2))
    >>> model.embedding_dim, model(torch.rand(3, 1, 2, 2)).embedding.shape
    (8, torch.Size([3, 8]))
    """
    model = WithEmbedding(module, layer, mean=mean, std=std)
    if example is not None:
        with modes_kept(model), torch.no_grad():
            model.eval()(example)
    return model


class _Captured(threading.local):
    """What the layer gave during the forward that runs in this thread; None when none runs. Copies begin empty."""

    outputs: list[Tensor] | None = None

    def __reduce__(self) -> tuple[type[_Captured], tuple[()]]:
        return _Captured, ()


class WithEmbedding(nn.Module):
    """A module that returns `Output`; see `with_embedding`.

    Attributes:
        module: the wrapped classifier.
        layer: name of the layer whose output is the embedding.
        embedding_dim: D; None until the first forward.
    """

    def __init__(
        self, module: nn.Module, layer: str, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        layers = {name: part for name, part in module.named_modules() if name}
        if layer not in layers:
            raise ValueError(f"layer={layer!r} is not in the module; it has {_nearest(layer, list(layers))}")
        self.normalize = normalization(mean, std)
        self.module = module
        self.layer = layer
        self.embedding_dim: int | None = None
        self._captured = _Captured()
        layers[layer].register_forward_hook(self._capture)

    def _capture(self, module: nn.Module, arguments: Any, output: Any) -> None:
        if self._captured.outputs is None:
            return
        if not isinstance(output, Tensor) or output.dim() < 2:
            found = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(f"layer {self.layer!r} gave {found}, expected a tensor (B, D) or (B, D, H, W)")
        # A copy, because the layers behind may change their input in place.
        self._captured.outputs.append(output.mean((2, 3)) if output.dim() == 4 else output.flatten(1).clone())

    def forward(self, x: Tensor) -> Output:
        outputs: list[Tensor] = []
        self._captured.outputs = outputs
        try:
            result = self.module(self.normalize(x))
        finally:
            self._captured.outputs = None
        logits = as_output(result).logits
        if not outputs:
            raise ValueError(f"layer {self.layer!r} did not run in the module's forward; name one that does")
        embedding = outputs[-1]
        if len(embedding) != len(logits):
            raise ValueError(f"layer {self.layer!r} gave {len(embedding)} rows for {len(logits)} images")
        if self.embedding_dim is None:
            self.embedding_dim = embedding.shape[1]
        return Output(logits, embedding)


def _nearest(name: str, names: list[str]) -> str:
    """The names, most similar first."""
    names = sorted(names, key=lambda other: -SequenceMatcher(None, name, other).ratio())
    shown = ", ".join(map(repr, names[:_NAMES_SHOWN])) or "no layers"
    return shown + (f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else "")
