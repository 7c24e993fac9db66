"""Lets the passes that attacks make through a network run compiled, for batches of any size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from protoat.attacks import Attack, Transfer
from protoat.attacks.examination import Finding
from protoat.attacks.mode import attacking
from protoat.errors import UserError
from protoat.evaluation.folding import FoldedBatchNorm
from protoat.evaluation.micro_batches import MicroBatched
from protoat.functional.compiled import for_any_batch, several_backwards
from protoat.functional.forward import device_of, output_of
from protoat.spelling import argument
from protoat.types import Output, as_output

_FEWEST = 16  # rows of a batch; torch's convolutions on a CPU have other kernels below, and so another graph
_TOGETHER = ("batch", "random")  # findings of models of which rows that are added may change the others


class CompiledNetwork:
    """The network of a measurement, whose passes in attacks run compiled.

    For each precision one compiled graph with gradient and one without serve batches of all sizes, as images leave an
    attack and the last batch is smaller. Images that fill a batch up are copies of its first one, and their outputs are
    dropped.

    Args:
        network: that is measured, in eval mode; its weights must not change.
        folded: the same with batch norm folded, which is what is compiled.
        example: (B, ...) images; their pass compiles what attacks along gradients need.
        batch_size: most images at once.
        found: of the network, see `protoat.attacks.examination.examine`.

    Raises:
        ValueError: an image's outputs depend on its batch or on chance, so that none may be added; or what the compiler
            refused.
    """

    def __init__(
        self,
        network: MicroBatched,
        folded: FoldedBatchNorm,
        example: Tensor,
        *,
        batch_size: int,
        found: tuple[Finding, ...],
    ) -> None:
        for finding in found:
            if finding.code in _TOGETHER:
                raise UserError(f"leave out {argument('compile')}, which adds images to small batches: {finding.text}")
        self._network = network
        self._folded = folded
        self._passes = _Passes(network.network, batch_size)
        with self.in_place(), attacking(network), torch.enable_grad():
            leaf = example.clone().requires_grad_()
            logits = output_of(network, leaf).logits
            if logits.requires_grad:
                logits.sum().backward(inputs=[leaf])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the network is the folded one, compiled; its own layers come back, also on errors."""
        own = self._network.network
        with self._folded.in_place(), several_backwards():
            self._network.network = self._passes
            try:
                yield
            finally:
                self._network.network = own


class _Passes(nn.Module):
    def __init__(self, network: nn.Module, batch_size: int) -> None:
        super().__init__()
        self._orig_mod = network  # named as by torch.compile, which tells `output_of`
        self._batch_size = max(batch_size, _FEWEST)
        self._on_cuda = device_of(network).type == "cuda"

        def passes(images: Tensor) -> Output:
            return as_output(network(images))

        # torch keeps graphs with the code of a function, and gives up after eight; so this network has its own.
        passes.__code__ = passes.__code__.replace()
        compiled = torch.compile(passes, mode="reduce-overhead" if self._on_cuda else None)
        self._call = for_any_batch(compiled)

    def forward(self, images: Tensor) -> Output:
        count = len(images)
        rows = max(count, _FEWEST)
        if self._on_cuda:  # a CUDA graph is recorded for each size, so there are few
            rows = max(min(1 << (rows - 1).bit_length(), self._batch_size), rows)
        more = images[:1].detach().expand(rows - count, *images.shape[1:])
        # Any other pass without gradient, such as within no_grad, would be another graph.
        with torch.set_grad_enabled(torch.is_grad_enabled() and images.requires_grad):
            output = self._call(torch.cat([images, more]))
            # Copies, as the next CUDA graph writes into the same memory.
            return Output(*(part[:count].clone() for part in output))


def is_compiled(attack: Attack | None) -> bool:
    """Whether an attack's passes run compiled where they can: those of the network itself, with batch norm as it is."""
    return attack is not None and attack.bn == "eval" and not isinstance(attack, Transfer)
