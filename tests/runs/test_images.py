"""A recipe chooses which of the training images a run sees."""

from __future__ import annotations

import pytest
import torch

from protoat.recipes.reading import read_recipe
from protoat.runs.images import load_images, training_images


def test_a_long_tail_then_a_part_then_what_is_held_out() -> None:
    options = {"long_tail": 8, "train_size": 200, "validation_size": 50}
    train, validation = training_images(read_recipe("digits-2", options))
    assert validation is not None and len(train) == 150 and len(validation) == 50
    every = torch.bincount(train.modes) + torch.bincount(validation.modes)
    # Of five modes, shares 8 ** -(k / 4).
    expected = torch.tensor([8 ** -(k / 4) for k in range(5)] * 2, dtype=torch.float64)
    assert (every - 200 * expected / expected.sum()).abs().max() < 3
    assert torch.bincount(load_images(read_recipe("digits-2", options), "test").modes).min() > 30
    assert not torch.equal(training_images(read_recipe("digits-2", {**options, "seed": 1}))[0].images, train.images)


def test_more_images_than_there_are() -> None:
    with pytest.raises(ValueError, match=r"train_size=9000 of \d+ training images; write at most that, or none"):
        training_images(read_recipe("digits-2", {"train_size": 9000}))
