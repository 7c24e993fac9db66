"""The benchmarks' simulation of bfloat16 gives what PyTorch's own kernels for it give."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor, nn

from benchmarks.simulated import Autocast
from benchmarks.subjects import network


def passed(model: nn.Module, x: Tensor, context: AbstractContextManager[object]) -> tuple[Tensor, Tensor]:
    """Logits, and a gradient at the images."""
    leaf = x.clone().requires_grad_()
    with context:
        logits = model(leaf).logits
    logits = logits.float()
    (gradient,) = torch.autograd.grad(logits.logsumexp(1).sum(), leaf)
    return logits.detach(), gradient


@pytest.mark.parametrize(("name", "shape"), [("mnist", (4, 1, 28, 28)), ("cifar10", (4, 3, 32, 32))])
def test_simulation_errs_as_the_kernels_do(name: str, shape: tuple[int, ...]) -> None:
    model, x = network(name, width=0.125).eval().requires_grad_(False), torch.rand(shape)
    exact = passed(model, x, nullcontext())
    simulated = passed(model, x, Autocast("cpu", torch.bfloat16))
    for ours, theirs, true in zip(
        simulated, passed(model, x, torch.autocast("cpu", torch.bfloat16)), exact, strict=True
    ):
        error, expected = (ours - true).norm(), (theirs - true).norm()
        assert expected > 0
        assert error == pytest.approx(expected, rel=0.25)
        if name == "mnist":  # few sums, so hardly one comes out on the other side of a rounding
            assert (ours - theirs).norm() < 0.1 * expected


def test_other_types_are_refused() -> None:
    with pytest.raises(ValueError, match=r"torch.float16 is not simulated"):
        Autocast("cpu", torch.float16)
