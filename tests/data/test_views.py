"""Random views for contrastive pre-training."""

from __future__ import annotations

import pytest
import torch

from protoat.data.views import RandomView


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("view", "channels"), [(RandomView.for_colour(), 3), (RandomView.for_digits(), 1)])
def test_views_are_legal_repeatable_and_differ(view: RandomView, channels: int) -> None:
    x = torch.rand(8, channels, 16, 16)
    first = view(x, seeded())
    assert first.shape == x.shape
    assert first.min() >= 0
    assert first.max() <= 1
    assert torch.equal(first, view(x, seeded()))
    assert not torch.allclose(first, view(x, seeded(1)))


def test_the_whole_image_without_turn_is_the_image_itself() -> None:
    x = torch.rand(4, 3, 12, 12)
    square = RandomView(crop_scale=(1.0, 1.0))
    turned = square(x, seeded())
    # an aspect ratio other than 1 is clipped to the image, so one side may shrink; the centre column never moves
    assert turned.shape == x.shape
    constant = torch.full((4, 3, 12, 12), 0.4)
    torch.testing.assert_close(square(constant, seeded()), constant)


def test_a_crop_is_a_window_of_the_image() -> None:
    """On an image that is linear in x and y a resampled window is linear too, and lies inside the image's range."""
    ramp = torch.linspace(0, 1, 32).expand(1, 1, 32, 32).repeat(64, 1, 1, 1)
    out = RandomView(crop_scale=(0.2, 0.9))(ramp, seeded())
    inner = out[:, 0, 5, 4:28]
    torch.testing.assert_close(inner[:, 2:] - inner[:, 1:-1], inner[:, 1:-1] - inner[:, :-2], atol=1e-4, rtol=0)
    slope = (inner[:, 1:] - inner[:, :-1]).mean(1) * 31
    assert (slope > 0.3).all()
    assert (slope < 1.05).all()


def test_flip_mirrors_about_half_of_the_images() -> None:
    ramp = torch.linspace(0, 1, 16).expand(400, 1, 16, 16)
    out = RandomView(crop_scale=(0.5, 1.0), flip=True)(ramp.contiguous(), seeded())
    mirrored = (out[:, 0, 8, 12] < out[:, 0, 8, 3]).float().mean()
    assert 0.4 < mirrored < 0.6


def test_the_share_of_grey_images_is_as_asked() -> None:
    x = torch.rand(400, 3, 4, 4)
    out = RandomView(crop_scale=(1.0, 1.0), grey=0.2)(x, seeded())
    grey = (out.amax(1) - out.amin(1)).flatten(1).amax(1) < 1e-6
    assert 0.14 < grey.float().mean() < 0.26


def test_colour_changes_leave_digits_alone() -> None:
    x = torch.rand(4, 1, 8, 8)
    plain = RandomView(crop_scale=(0.5, 1.0))
    assert torch.equal(plain(x, seeded()), RandomView(crop_scale=(0.5, 1.0), jitter=0.5, grey=1.0)(x, seeded()))


def test_an_impossible_crop_is_refused() -> None:
    with pytest.raises(ValueError, match="crop_scale"):
        RandomView(crop_scale=(0.9, 0.5))
