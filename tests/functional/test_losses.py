"""The losses attacks climb, against torch and in float64 where float32 gives up."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from protoat.functional.losses import cross_entropy, margin
from protoat.types import Output


def output(logits: torch.Tensor) -> Output:
    return Output(logits, logits[:, :0])


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_cross_entropy_is_torch_s(classes: int) -> None:
    logits, y = 5 * torch.randn(100, classes), torch.randint(classes, (100,))
    torch.testing.assert_close(cross_entropy(output(logits), y), F.cross_entropy(logits, y, reduction="none"))


@pytest.mark.parametrize("lead", [5.0, 20.0, 60.0])
def test_cross_entropy_keeps_its_gradient_where_the_model_is_confident(lead: float) -> None:
    logits = torch.tensor([[lead, 0.0, -1.0]], requires_grad=True)
    (slope,) = torch.autograd.grad(cross_entropy(output(logits), torch.tensor([0])).sum(), logits)
    exact = logits.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(torch.log1p((exact[:, 1:] - exact[:, :1]).exp().sum()), exact)
    torch.testing.assert_close(slope.double(), expected, rtol=1e-5, atol=0)
    assert bool((slope != 0).all())


def test_half_precision_logits_are_computed_wide() -> None:
    assert cross_entropy(output(torch.zeros(1, 3, dtype=torch.float16)), torch.tensor([0])).dtype == torch.float32


def test_margin_is_positive_exactly_where_the_head_is_wrong() -> None:
    logits, y = torch.randn(200, 5), torch.randint(5, (200,))
    assert torch.equal(margin(output(logits), y) > 0, logits.argmax(1) != y)
