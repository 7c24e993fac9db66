"""SoftTriple with its spread term against pytorch-metric-learning's with `SparseCentersRegularizer`: time and memory.

Both compute loss and gradients at C = 1000 classes, K = 10 prototypes, D = 2048, B = 256, from the same numbers, in
turns in one process. The second row is the largest tensor that any operation of ours makes, forward or backward, over
the size of the prototypes themselves: a (CK) x (CK) buffer would be 4.9 of them.
``python -m benchmarks.bench_soft_triple``
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import torch
from pytorch_metric_learning.losses import SoftTripleLoss
from pytorch_metric_learning.regularizers import SparseCentersRegularizer
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from protoat.regularizers import SoftTriple

C, K, D, B, TAU, ROUNDS, LIMIT = 1000, 10, 2048, 256, 0.2, 3, 5.0


class Largest(TorchDispatchMode):
    """Remembers the bytes of the largest tensor that any operation made."""

    size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = [leaf.untyped_storage().nbytes() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.size = max(self.size, *made, 0)
        return result


def run(loss: nn.Module, embedding: Tensor, y: Tensor) -> tuple[float, float]:
    """Value, and seconds of one forward and backward into fresh gradients."""
    loss.zero_grad()
    embedding.grad = None
    start = time.perf_counter()
    value = loss(embedding, y)
    value.backward()
    if embedding.is_cuda:
        torch.cuda.synchronize()
    return value.item(), time.perf_counter() - start


def main() -> list[dict[str, Any]]:
    """Measures, prints a line for each comparison and returns them as rows."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ours = SoftTriple(C, D, prototypes_per_class=K, tau=TAU, projection=None).to(device)
    spread = SparseCentersRegularizer(C, K)
    theirs = SoftTripleLoss(C, D, K, weight_regularizer=spread, weight_reg_weight=TAU).to(device)
    theirs.fc.data = ours.prototypes.detach().flatten(0, 1).T.contiguous()
    embedding = torch.randn(B, D, device=device).relu_().requires_grad_()
    y = torch.randint(C, (B,), device=device)

    with Largest() as largest:
        value, _ = run(ours, embedding, y)
    reference, _ = run(theirs, embedding, y)
    torch.testing.assert_close(value, reference, rtol=1e-4, atol=0.0)
    times: dict[nn.Module, list[float]] = {ours: [], theirs: []}
    for _ in range(ROUNDS):
        for loss, seconds in times.items():
            seconds.append(run(loss, embedding, y)[1])
    fast, slow = median(times[ours]), median(times[theirs])
    speed, memory = slow / fast, largest.size / (ours.prototypes.numel() * ours.prototypes.element_size())
    shape = f"C = {C}, K = {K}, D = {D}, B = {B}"
    print(f"SoftTriple, {shape}: {fast:.2f} s against {slow:.2f} s, ratio {speed:.1f} (at least {LIMIT:g})")
    print(f"SoftTriple, {shape}: largest tensor is {memory:.2f} of the prototypes (at most 1)")
    return [
        {
            "name": "SoftTriple, speed over pytorch-metric-learning",
            "ratio": speed,
            "limit": LIMIT,
            "ok": speed >= LIMIT,
        },
        {"name": "SoftTriple, largest tensor over prototypes", "ratio": memory, "limit": 1.0, "ok": memory <= 1},
    ]


if __name__ == "__main__":
    raise SystemExit(0 if all(row["ok"] for row in main()) else 1)
