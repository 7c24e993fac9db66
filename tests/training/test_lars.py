"""LARS against a loop in plain numbers."""

from __future__ import annotations

import pytest
import torch

from protoat.training.lars import LARS


def test_equals_a_plain_loop_over_several_steps() -> None:
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(4, 3, dtype=torch.float64)), torch.nn.Parameter(torch.zeros(3).double())]
    plain = [w.detach().clone() for w in weights]
    momenta = [torch.zeros_like(w) for w in plain]
    optimizer = LARS(weights, lr=2.0, momentum=0.9, weight_decay=0.01, trust=0.02)
    for _ in range(4):
        gradients = [torch.randn_like(w) for w in plain]
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient.clone()
        optimizer.step()
        for i, gradient in enumerate(gradients):
            size, slope = plain[i].norm(), gradient.norm()
            local = 0.02 * size / (slope + 0.01 * size) if size > 0 and slope > 0 else 1.0
            momenta[i] = 0.9 * momenta[i] + local * (gradient + 0.01 * plain[i])
            plain[i] = plain[i] - 2.0 * momenta[i]
            torch.testing.assert_close(weights[i].detach(), plain[i])
            assert torch.equal(weights[i].grad, gradient)
    assert optimizer.param_groups[0]["weight_decay"] == 0.01


def test_a_trust_coefficient_must_be_positive() -> None:
    with pytest.raises(ValueError, match="trust"):
        LARS([torch.nn.Parameter(torch.ones(2))], trust=0.0)
