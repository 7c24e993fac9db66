from __future__ import annotations

import pytest
import torch
import torchvision.transforms.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from protoat.data import Augment
from protoat.data.augment import crop


def slow_crop(image: Tensor, padding: int, top: int, left: int, flipped: bool) -> Tensor:
    """One pixel at a time."""
    channels, height, width = image.shape
    out = torch.zeros_like(image)
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                row, column = y + top - padding, x + left - padding
                if 0 <= row < height and 0 <= column < width:
                    out[c, y, x] = image[c, row, width - 1 - column if flipped else column]
    return out


@settings(max_examples=40)
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)),
    st.integers(0, 3),
    st.booleans(),
    st.sampled_from([torch.uint8, torch.float32]),
    st.integers(0, 2**32),
)
def test_crop_equals_a_loop_over_pixels(
    shape: tuple[int, int, int, int], padding: int, flip: bool, dtype: torch.dtype, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(1, 256, shape, generator=generator).to(dtype)
    top, left = torch.randint(2 * padding + 1, (2, shape[0]), generator=generator)
    flipped = torch.rand(shape[0], generator=generator) < 0.5 if flip else None
    expected = torch.stack(
        [
            slow_crop(images[i], padding, int(top[i]), int(left[i]), flipped is not None and bool(flipped[i]))
            for i in range(shape[0])
        ]
    )
    result = crop(images, padding, top, left, flipped)
    assert result.dtype == dtype and torch.equal(result, expected)


def test_crop_equals_torchvision() -> None:
    images = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8)
    top, left = torch.randint(9, (2, 16))
    flipped = torch.arange(16) % 2 == 0
    result = crop(images, 4, top, left, flipped)
    for i, image in enumerate(images):
        source = TF.hflip(image) if flipped[i] else image
        assert torch.equal(result[i], TF.crop(TF.pad(source, [4]), int(top[i]), int(left[i]), 32, 32))


def test_draws_follow_the_generator_and_not_the_global_state() -> None:
    images = torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8)
    augment = Augment(padding=2, flip=True)
    state = torch.get_rng_state()
    first, again, other = (augment(images, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_shifts_and_flips_are_uniform() -> None:
    image = torch.zeros(1, 1, 3, 5, dtype=torch.uint8)
    image[..., 1, 1] = 1  # off the middle column, so that a flip shows
    out = Augment(padding=1, flip=True)(image.expand(36_000, -1, -1, -1), torch.Generator().manual_seed(0))
    # Rows 0 to 2; columns 0 to 2 as it is and 2 to 4 mirrored: each of 18 draws equally likely, two share a column.
    seen = out.sum((0, 1)).tolist()
    for row in seen:
        for count, draws in zip(row, [1, 1, 2, 1, 1], strict=True):
            assert abs(count - 2000 * draws) < 5 * (2000 * draws) ** 0.5


def test_no_augmentation_is_the_identity() -> None:
    images = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    assert torch.equal(Augment()(images, torch.Generator()), images)


def test_only_flip_keeps_or_mirrors() -> None:
    images = torch.randint(0, 256, (64, 1, 4, 4), dtype=torch.uint8)
    out = Augment(flip=True)(images, torch.Generator().manual_seed(0))
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(out, images, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(out, images, strict=True)]
    assert all(m or k for m, k in zip(mirrored, kept, strict=True))
    assert 16 < sum(mirrored) < 48


def test_negative_padding() -> None:
    with pytest.raises(ValueError, match="padding=-1 must be at least 0"):
        Augment(padding=-1)
