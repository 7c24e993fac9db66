"""Detects the layout of a feature map (NCHW, NHWC, tokens) and pools it to an embedding."""

from __future__ import annotations

import threading
from typing import Any, Literal

import torch
from torch import Tensor, nn

from protoat.arguments import check_choice
from protoat.errors import UserError
from protoat.models.multi_prototype import MultiPrototypeHead
from protoat.spelling import setting

Pool = Literal["nchw", "nhwc", "tokens", "cls"]

DIMENSIONS: dict[Pool, int] = {"nchw": 4, "nhwc": 4, "tokens": 3, "cls": 3}
_CHANNELS_FIRST = (
    *(nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.SyncBatchNorm, nn.InstanceNorm2d, nn.GroupNorm),
    *(nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
)
_LARGEST = 2**16  # numbers of an embedding
_SMALLEST = 4  # of maps or tokens whose layout was guessed; fewer are colours or a side, not features


class Trace:
    """What ran in one forward, in order, as far as it tells where channels are.

    Attributes:
        linear: each linear layer, and a `MultiPrototypeHead`, by name, with its last input and output.
        leaf: the layer with channels that ran last so far.
        channels_last: whether a layer ran on maps whose channels come last.
    """

    def __init__(self, module: nn.Module) -> None:
        self.linear: dict[str, tuple[Tensor, Tensor]] = {}
        self.leaf: nn.Module | None = None
        self.channels_last = False
        self._thread = threading.get_ident()
        self._names = {part: name for name, part in module.named_modules()}
        self._handles = [part.register_forward_hook(self._see) for part in self._names if _channels(part)]

    def _see(self, part: nn.Module, arguments: Any, output: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        self.leaf = part
        if not isinstance(output, Tensor):
            return
        if isinstance(part, nn.Linear | MultiPrototypeHead) and arguments:
            self.linear[self._names[part]] = (arguments[0], output)
        if type(part) in (nn.Linear, nn.LayerNorm) and output.dim() == 4:
            self.channels_last = True

    def close(self) -> None:
        """Takes the hooks away."""
        for handle in self._handles:
            handle.remove()

    def head(self, logits: Tensor) -> str | None:
        """Name of the linear layer that gave the logits; None where it cannot be told."""
        same = [name for name, (_, output) in self.linear.items() if output is logits]
        alike = [name for name, (_, output) in self.linear.items() if output.shape == logits.shape]
        return same[-1] if same else alike[0] if len(alike) == 1 else None


def _channels(part: nn.Module) -> int | None:
    for kinds, name in (
        ((nn.Conv2d, nn.ConvTranspose2d), "out_channels"),
        ((nn.BatchNorm2d, nn.SyncBatchNorm, nn.InstanceNorm2d), "num_features"),
        (nn.GroupNorm, "num_channels"),
        (nn.Linear, "out_features"),
        (MultiPrototypeHead, "num_classes"),
    ):
        if isinstance(part, kinds):
            return int(getattr(part, name))
    return int(part.normalized_shape[-1]) if isinstance(part, nn.LayerNorm) else None


def check_pool(pool: str | None) -> None:
    """Refuses a name that is no way to pool.

    Raises:
        ValueError: it is unknown.
    """
    if pool is not None:
        check_choice(Pool, pool=pool)


def tensor_of(output: Any, layer: str) -> Tensor:
    """What a layer gave as a tensor, of an object of Hugging Face its pooled or else its last hidden state.

    Raises:
        ValueError: it gave nothing of that kind.
    """
    if not isinstance(output, Tensor):
        parts = (getattr(output, name, None) for name in ("pooler_output", "last_hidden_state"))
        output = next((part for part in parts if isinstance(part, Tensor)), output)
    if not isinstance(output, Tensor) or output.dim() not in (2, 3, 4):
        found = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise UserError(f"layer {layer!r} gave {found}, expected a tensor (B, D), (B, N, D) or (B, D, H, W)")
    return output


def pooled(output: Tensor, pool: Pool | None) -> Tensor:
    """(B, D) of maps or tokens; vectors as they are, copied.

    >>> pooled(torch.ones(2, 3, 4, 5), "nhwc").shape, pooled(torch.ones(2, 7, 5), "cls").shape
    (torch.Size([2, 5]), torch.Size([2, 5]))
    """
    # Copies, because the layers behind may change their input in place.
    if pool is None:
        return output.flatten(1).clone()
    if pool == "cls":
        return output[:, 0].clone()
    return output.mean({"nchw": (2, 3), "nhwc": (1, 2), "tokens": (1,)}[pool])


def choose(layer: str, part: nn.Module, output: Tensor, trace: Trace, given: Tensor | None) -> Pool | None:
    """How to pool what a layer gave.

    Args:
        layer, part: its name and itself.
        output: what it gave.
        trace: of the forward up to this layer.
        given: (B, D) what the last linear layer of the network takes, where that is known.

    Raises:
        ValueError: several ways are possible; the text names them.
    """
    if output.dim() == 2 or is_pooled(part, output):
        return None
    ways = [way for way, dimensions in DIMENSIONS.items() if dimensions == output.dim()]
    if given is not None:
        alike = [way for way in ways if _close(pooled(output, way), given)]
        if len(alike) == 1:
            return alike[0]
    found = _by_layers(part, output, trace) if output.dim() == 4 else None
    if found is not None:
        channels = output.shape[1 if found == "nchw" else 3]
        if channels >= _SMALLEST:
            return found
    raise UserError(
        f"layer {layer!r} gave shape {tuple(output.shape)}, and which of these numbers are features cannot be told; "
        f"write {' or '.join(setting(pool=way) for way in ways)}"
    )


def is_pooled(part: nn.Module, output: Tensor) -> bool:
    """Whether it is maps of one pixel, so that nothing is left to pool."""
    one = output.dim() == 4 and output.shape[2:] == (1, 1)
    return one and (isinstance(part, _CHANNELS_FIRST) or output.shape[1] >= _SMALLEST)


def _close(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-3, atol=1e-5)


def _by_layers(part: nn.Module, output: Tensor, trace: Trace) -> Pool | None:
    if isinstance(part, _CHANNELS_FIRST):
        return "nchw"
    if type(part) in (nn.Linear, nn.LayerNorm):
        return "nhwc"
    channels = None if trace.leaf is None else _channels(trace.leaf)
    first, last = output.shape[1] == channels, output.shape[3] == channels
    if first != last:
        return "nchw" if first else "nhwc"
    return None if trace.channels_last else "nchw"


def check_embedding(embedding: Tensor, images: Tensor, layer: str) -> bool:
    """Refuses an embedding that cannot be one; says whether that could be seen on these images.

    Raises:
        ValueError: too many numbers, or the same ones for different images.
    """
    if embedding.shape[1] > _LARGEST:
        raise UserError(
            f"layer {layer!r} gave {embedding.shape[1]} numbers for each image, too many for an embedding (at most "
            f"{_LARGEST}); name a later layer"
        )
    if len(images) < 2 or bool((images == images[:1]).all()):
        return False
    spread = (embedding.amax(0) - embedding.amin(0)).max()
    if bool(spread <= 1e-7 * embedding.abs().max()):
        raise UserError(f"layer {layer!r} gave the same numbers for different images; name another layer")
    return True
