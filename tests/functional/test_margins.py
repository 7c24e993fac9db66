"""Golden values and invariances of the losses that attacks climb."""

from __future__ import annotations

import pytest
import torch

from protoat.functional.losses import margin
from protoat.functional.margins import capped_margin, difference, dlr, dlr_targeted
from protoat.types import Output

Z = Output(torch.tensor([[2, 1, 0.5, -1], [0, 3, 1, 2]]), torch.zeros(2, 0))
Y = torch.tensor([0, 3])
T = torch.tensor([1, 0])


def test_golden_values() -> None:
    torch.testing.assert_close(dlr(Z, Y), torch.tensor([-0.666667, 0.5]), atol=1e-6, rtol=0)
    torch.testing.assert_close(dlr_targeted(Z, Y, T), torch.tensor([-0.444444, -0.8]), atol=1e-6, rtol=0)
    torch.testing.assert_close(capped_margin(Z, Y, 50), torch.tensor([-51.0, -49.0]))
    torch.testing.assert_close(capped_margin(Z, Y, 0), torch.tensor([-1.0, 0.0]))
    torch.testing.assert_close(-margin(Z, Y), torch.tensor([1.0, -1.0]))
    torch.testing.assert_close(difference(Z, Y, T), torch.tensor([-1.0, -2.0]))


def test_dlr_does_not_see_scale_or_shift_of_the_logits() -> None:
    moved = Output(1000 * Z.logits + 7, Z.embedding)
    torch.testing.assert_close(dlr(moved, Y), dlr(Z, Y))
    torch.testing.assert_close(dlr_targeted(moved, Y, T), dlr_targeted(Z, Y, T))


def test_negative_logits_hide_no_class() -> None:
    """A true class masked by a product with zero would beat negative logits."""
    z = Output(torch.tensor([[-1.0, -3.0, -5.0]]), torch.zeros(1, 0))
    assert margin(z, torch.tensor([0])).item() == -2
    assert dlr(z, torch.tensor([0])).item() == pytest.approx(-0.5)


def test_capped_margin_has_no_slope_beyond_kappa() -> None:
    logits = torch.tensor([[0.0, 3.0], [3.0, 0.0]], requires_grad=True)
    capped_margin(Output(logits, torch.zeros(2, 0)), torch.tensor([0, 0]), 1.0).sum().backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[0.0, 0.0], [-1.0, 1.0]]


@pytest.mark.parametrize("classes", [2, 3])
def test_too_few_classes_are_refused(classes: int) -> None:
    z = Output(torch.randn(2, classes), torch.zeros(2, 0))
    y = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="at least 4 classes"):
        dlr_targeted(z, y, y + 1)
    if classes == 2:
        with pytest.raises(ValueError, match="at least 3 classes, the model has 2"):
            dlr(z, y)


def test_float64_is_kept() -> None:
    far = Output(torch.tensor([[1e9 + 1, 1e9, 1e9 - 1, 0]], dtype=torch.float64), torch.zeros(1, 0))
    y, target = torch.tensor([0]), torch.tensor([1])
    assert difference(far, y, target).tolist() == [-1.0]
    torch.testing.assert_close(dlr(far, y), torch.tensor([-0.5], dtype=torch.float64))
    assert dlr_targeted(far, y, target).dtype == torch.float64
