"""Colour changes against torchvision's, which take one factor for a whole batch."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms.v2 import functional as reference

from protoat.functional import colour


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("brightness", 0.2, 1.8), ("contrast", 0.2, 1.8), ("saturation", 0.2, 1.8), ("hue", -0.5, 0.5)],
)
def test_each_image_changes_by_its_own_factor(name: str, low: float, high: float) -> None:
    x, factors = torch.rand(16, 3, 9, 7), torch.empty(16).uniform_(low, high)
    changed = getattr(colour, f"adjust_{name}")(x, factors)
    one_by_one = [getattr(reference, f"adjust_{name}")(image, float(f)) for image, f in zip(x, factors, strict=True)]
    torch.testing.assert_close(changed, torch.stack(one_by_one), atol=5e-6, rtol=0)


def test_greyscale_equals_torchvision() -> None:
    x = torch.rand(4, 3, 5, 5)
    torch.testing.assert_close(colour.greyscale(x), reference.rgb_to_grayscale(x), atol=1e-6, rtol=0)


def test_hue_leaves_grey_alone_and_a_full_turn_changes_nothing() -> None:
    grey = torch.rand(3, 1, 4, 4).expand(-1, 3, -1, -1)
    torch.testing.assert_close(colour.adjust_hue(grey, torch.full((3,), 0.3)), grey)
    x = torch.rand(3, 3, 4, 4)
    torch.testing.assert_close(colour.adjust_hue(x, torch.ones(3)), x, atol=1e-5, rtol=0)
