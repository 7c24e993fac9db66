"""Makes any classifier return its embedding beside its logits."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

import torch
from torch import Tensor, nn

from protoat.arguments import check_kind
from protoat.errors import UserError
from protoat.functional.preserve import preserve_modes
from protoat.models.layout import (
    DIMENSIONS,
    Pool,
    Trace,
    check_embedding,
    check_pool,
    choose,
    is_pooled,
    pooled,
    tensor_of,
)
from protoat.models.normalize import normalization
from protoat.spelling import setting
from protoat.types import Output, as_output

_NAMES_SHOWN = 20


def with_embedding(
    module: nn.Module,
    layer: str | None = None,
    *,
    pool: Pool | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    example: Tensor | None = None,
) -> WithEmbedding:
    """Wraps a classifier so that it returns `Output`: its logits, and an embedding from on the way to them.

    Args:
        module: images -> logits, or an object with an attribute ``logits``. It is used as it is, not copied.
        layer: name of a layer, as in ``module.named_modules()``, whose output is the embedding. Default: what the last
            linear layer takes, of networks of torchvision, timm and Hugging Face as of others; where no linear layer
            gives the logits, ``forward_head(..., pre_logits=True)`` of a network of timm, or a layer ``avgpool``. A
            layer that runs several times in one forward gives its last output.
        pool: how the output becomes (B, D): ``"nchw"`` or ``"nhwc"``, the mean over the pixels of maps (B, D, H, W) or
            (B, H, W, D); ``"tokens"`` or ``"cls"``, the mean or the first of tokens (B, N, D). Default: what the first
            forward shows, by the values that the last linear layer takes and by the layers that ran.
        mean, std: normalisation in front of a module that expects it, since its pixels will come in [0, 1].
        example: (B, ...) images for one forward in eval mode, after which `embedding_dim` is known at once. Pass it
            before the model is compiled.

    Raises:
        ValueError: an unknown layer, with the names there are; in use, a layer that did not run or gave no tensor, a
            layout that cannot be told, or an embedding that is too large, or the same for different images.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> model = with_embedding(net, "2", example=torch.zeros(1, 1, 2, 2))
    >>> model.embedding_dim, model(torch.rand(3, 1, 2, 2)).embedding.shape
    (8, torch.Size([3, 8]))
    >>> with_embedding(net, example=torch.zeros(1, 1, 2, 2)).layer
    'the input of 3'
    """
    model = WithEmbedding(module, layer, pool=pool, mean=mean, std=std)
    if example is not None:
        check_kind(Tensor, example=example)
        try:
            with preserve_modes(model), torch.no_grad():
                model.eval()(example)
        except RuntimeError as error:
            raise UserError(
                f"example of shape {tuple(example.shape)} does not go through the model: {error}"
            ) from error
    return model


class _Captured(threading.local):
    """What the layer gave during the forward that runs in this thread; None when none runs. Copies begin empty."""

    def __init__(self) -> None:  # once in each thread
        self.outputs: list[Tensor] | None = None
        self.trace: Trace | None = None
        self.leaf: nn.Module | None = None

    def __reduce__(self) -> tuple[type[_Captured], tuple[()]]:
        return _Captured, ()


class WithEmbedding(nn.Module):
    """A module that returns `Output`; see `with_embedding`.

    Attributes:
        module: the wrapped classifier.
        layer: what the embedding is: the name of a layer, or ``"the input of ..."``; None until the first forward where
            none was named.
        pool: how it is pooled; None of vectors, and until the first forward.
        embedding_dim: D; None until the first forward.
    """

    def __init__(
        self,
        module: nn.Module,
        layer: str | None = None,
        *,
        pool: Pool | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        check_kind(nn.Module, module=module)
        layers = {name: part for name, part in module.named_modules() if name}
        if layer is not None and layer not in layers:
            raise UserError(f"{setting(layer=layer)} is not in the module; it has {_nearest(layer, list(layers))}")
        check_pool(pool)
        self.normalize = normalization(mean, std)
        self.module = module
        self.layer = layer
        self.pool = pool
        self.embedding_dim: Any = None  # an int from the first forward on
        self._captured = _Captured()
        self._known = False  # which layer, and how it is pooled
        self._checked = False  # on different images
        self._by_parts = False  # whether the parts of timm's protocol run one by one
        if layer is not None:
            layers[layer].register_forward_hook(self._capture)

    def _capture(self, module: nn.Module, arguments: Any, output: Any) -> None:
        if self._captured.outputs is None:
            return
        found = tensor_of(output, str(self.layer))
        # Undecided ones are pooled after the forward, so they are kept whole.
        self._captured.outputs.append(pooled(found, self.pool) if self._known else found.clone())
        self._captured.leaf = None if self._captured.trace is None else self._captured.trace.leaf

    def _capture_input(self, module: nn.Module, arguments: Any) -> None:
        if self._captured.outputs is not None:
            self._captured.outputs.append(arguments[0].clone())

    def forward(self, x: Tensor) -> Output:
        x = self.normalize(x)
        compiling = torch.compiler.is_compiling()
        if self._known or (compiling and self.layer):
            logits, embedding = self._run(x)
        else:  # as a decorator, disable would import the compiler, which takes seconds, wherever models are imported
            logits, embedding = (torch.compiler.disable(self._first) if compiling else self._first)(x)
        if self.embedding_dim is None:
            self.embedding_dim = embedding.shape[1]
        if not self._checked and not compiling:
            self._checked = check_embedding(embedding.detach(), x.detach(), str(self.layer))
        return Output(logits, embedding)

    def _run(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self._by_parts:
            features = self.module.forward_features(x)  # type: ignore[operator]
            head = self.module.forward_head
            return as_output(head(features)).logits, head(features, pre_logits=True)  # type: ignore[operator]
        logits, outputs = self._captured_in(x)
        if self._known:
            return logits, outputs[-1]
        # It is being compiled, so values cannot be looked at; the layer and shapes alone must tell.
        output, part = outputs[-1], self.module.get_submodule(str(self.layer))
        if self.pool is None and output.dim() != 2 and not is_pooled(part, output):
            raise UserError(
                f"layer {self.layer!r} is not looked at before the model is compiled; pass example= or pool="
            )
        return logits, pooled(output, self.pool)

    def _captured_in(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        outputs: list[Tensor] = []
        self._captured.outputs = outputs
        try:
            result = self.module(x)
        finally:
            self._captured.outputs = None
        logits = as_output(result).logits
        if not outputs and self.layer is not None:
            raise UserError(f"layer {self.layer!r} did not run in the module's forward; name one that does")
        if outputs and outputs[-1].shape[0] != logits.shape[0]:  # `len` would fix the size of batches in torch.export
            raise UserError(f"layer {self.layer!r} gave {len(outputs[-1])} rows for {len(logits)} images")
        return logits, outputs

    def _first(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A forward that is watched, to learn which layer gives the embedding and how it is laid out."""
        self._captured.trace = trace = Trace(self.module)
        try:
            logits, outputs = self._captured_in(x)
        finally:
            trace.close()
            self._captured.trace = None
        head = trace.head(logits)
        given = None if head is None else trace.linear[head][0]
        if self.layer is None:
            return self._find(x, logits, head, given)
        output, part = outputs[-1], self.module.get_submodule(self.layer)
        trace.leaf = self._captured.leaf
        if self.pool is None:
            self.pool = choose(self.layer, part, output, trace, given)
        elif output.dim() != DIMENSIONS[self.pool]:
            raise UserError(
                f"layer {self.layer!r} gave shape {tuple(output.shape)}, which {setting(pool=self.pool)} is not for"
            )
        self._known = True
        return logits, pooled(output, self.pool)

    def _find(self, x: Tensor, logits: Tensor, head: str | None, given: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.pool is not None:
            raise UserError(f"{setting(pool=self.pool)} is of a layer's output; name the layer, too")
        self._known = True
        if head is not None and given is not None:
            self.layer = f"the input of {head}"
            self.module.get_submodule(head).register_forward_pre_hook(self._capture_input)
            return logits, given.clone()
        if hasattr(self.module, "forward_features") and hasattr(self.module, "forward_head"):
            self.layer, self._by_parts = "forward_head(pre_logits=True)", True
            return self._run(x)
        self._known = False
        names = [name for name, _ in self.module.named_modules() if name]
        if "avgpool" in names:
            self.layer = "avgpool"
            self.module.get_submodule("avgpool").register_forward_hook(self._capture)
            return self._first(x)
        raise UserError(f"no one linear layer gives the logits, so name the layer to embed by: {_nearest('', names)}")


def _nearest(name: str, names: list[str]) -> str:
    """The names, most similar first."""
    names = sorted(names, key=lambda other: -SequenceMatcher(None, name, other).ratio())
    shown = ", ".join(map(repr, names[:_NAMES_SHOWN])) or "no layers"
    return shown + (f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else "")
