"""The faster input gradient: the same gradient, and nothing left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from protoat.attacks import AutoAttack
from protoat.attacks.narrow import _Narrow, narrow_gradients
from protoat.types import Linf


def gradient(model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.clone().requires_grad_()
    output = model(x)
    (slope,) = torch.autograd.grad(output.square().sum(), x)
    return output.detach(), slope


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 4, "stride": 2, "padding": 1},
        {"kernel_size": (3, 5), "stride": (2, 1), "padding": (0, 2), "bias": False},
        {"kernel_size": 3, "dilation": 2},
        {"kernel_size": 1},
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gradient_is_torch_s(settings: Any, dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    model = nn.Conv2d(3, 6, **settings).to(dtype).requires_grad_(False)
    model = nn.Sequential(model, nn.ReLU()).to(memory_format=memory_format)  # type: ignore[call-overload]
    x = torch.randn(5, 3, 11, 13, dtype=dtype).contiguous(memory_format=memory_format)
    expected = gradient(model, x)
    with narrow_gradients(model):
        ours = gradient(model, x)
    assert torch.equal(ours[0], expected[0])
    torch.testing.assert_close(ours[1], expected[1], rtol=1e-4, atol=1e-4)


def test_only_frozen_plain_narrow_layers_with_a_gradient_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    apply = _Narrow.apply
    monkeypatch.setattr(_Narrow, "apply", lambda *args: calls.append(1) or apply(*args))

    def used(model: nn.Module, x: torch.Tensor) -> bool:
        calls.clear()
        with narrow_gradients(model):
            model(x)
        return bool(calls)

    x = torch.rand(2, 1, 8, 8, requires_grad=True)
    narrow = nn.Conv2d(1, 4, 3).requires_grad_(False)
    assert used(narrow, x)
    assert not used(narrow, x.detach())
    assert not used(nn.Conv2d(1, 4, 3), x)
    assert not used(nn.Conv2d(8, 4, 3).requires_grad_(False), x.expand(2, 8, 8, 8))
    assert not used(nn.Conv2d(1, 4, 3, padding="same").requires_grad_(False), x)
    assert not used(nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular").requires_grad_(False), x)
    with torch.autocast("cpu", torch.bfloat16):
        assert not used(narrow, x)
    monkeypatch.setattr("protoat.attacks.narrow._MOST_COLUMNS", 10)
    assert not used(narrow, x)


def test_layers_are_given_back_also_on_errors() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten())
    with pytest.raises(RuntimeError, match="stop"), narrow_gradients(model):
        raise RuntimeError("stop")
    assert "forward" not in vars(model[0])
    with pytest.raises(ValueError, match="lie in"):
        AutoAttack(Linf(0.1)).perturb(model, torch.full((1, 1, 3, 3), 2.0), torch.tensor([0]))
    assert "forward" not in vars(model[0])
