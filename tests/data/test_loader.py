from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from protoat.data import Augment, ImageData, ImageLoader


def make(count: int, size: int = 1) -> ImageData:
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, size, size).contiguous()
    return ImageData(images, torch.arange(count) % 3, ("a", "b", "c"))


def ids(x: torch.Tensor) -> list[int]:
    return (x[:, 0, 0, 0] * 255).round().long().tolist()


@settings(max_examples=80)
@given(st.integers(4, 40), st.integers(1, 9), st.integers(1, 4), st.booleans(), st.booleans())
def test_processes_together_go_through_the_batches_of_one(
    count: int, batch_size: int, world_size: int, shuffle: bool, drop_last: bool
) -> None:
    options = {"shuffle": shuffle, "drop_last": drop_last, "seed": 3}
    if drop_last and count // world_size < batch_size:
        with pytest.raises(ValueError, match="give no batch of batch_size"):
            ImageLoader(make(count), batch_size=batch_size, world_size=world_size, **options)
        return
    loaders = [
        ImageLoader(make(count), batch_size=batch_size, rank=rank, world_size=world_size, **options)
        for rank in range(world_size)
    ]
    one = ImageLoader(make(count), batch_size=batch_size * world_size, shuffle=shuffle, seed=3)
    for loader in (one, *loaders):
        loader.set_epoch(4)
    whole = [ids(x) for x, _ in one]
    parts = [[ids(x) for x, _ in loader] for loader in loaders]
    assert all(len(part) == len(loader) == len(parts[0]) for part, loader in zip(parts, loaders, strict=True))
    for batch, shares in enumerate(zip(*parts, strict=True)):
        assert len({len(share) for share in shares}) == 1
        joined = [index for share in shares for index in share]
        assert joined == whole[batch][: len(joined)]
    seen = [index for part in parts for share in part for index in share]
    assert len(seen) == len(set(seen))
    if drop_last:
        assert all(len(share) == batch_size for part in parts for share in part)
    else:
        assert len(seen) == count - count % world_size


def test_batches_hold_their_labels_and_scaled_pixels() -> None:
    data = make(20)
    for x, y in ImageLoader(data, batch_size=6):
        assert x.dtype == torch.float32
        assert y.tolist() == [index % 3 for index in ids(x)]
        assert torch.equal(x[:, 0, 0, 0], torch.tensor(ids(x)) / 255)


def test_extreme_pixels_are_exactly_zero_and_one() -> None:
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    ((x, _),) = ImageLoader(ImageData(images, torch.tensor([0, 1]), ("a", "b")), batch_size=2, shuffle=False)
    assert x.flatten().tolist() == [0.0, 1.0]


@pytest.mark.parametrize("first", [0, 1, 3, 4])
def test_going_on_in_mid_epoch(first: int) -> None:
    loader = ImageLoader(make(19, size=4), batch_size=5, augment=Augment(padding=2, flip=True), seed=8)
    loader.set_epoch(2)
    whole = list(loader)
    loader.set_epoch(2)
    torch.manual_seed(123)  # nothing of it matters
    rest = list(loader.iterate(first))
    assert len(rest) == 4 - first
    for (x, y), (again_x, again_y) in zip(whole[first:], rest, strict=True):
        assert torch.equal(x, again_x) and torch.equal(y, again_y)


def test_augmentation_differs_by_seed_epoch_batch_and_rank() -> None:
    """The same image again and again: what differs is the augmentation."""
    images = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8).expand(64, -1, -1, -1)
    data = ImageData(images, torch.arange(64) % 2, ("a", "b"))

    def epoch(seed: int, number: int, rank: int) -> list[torch.Tensor]:
        loader = ImageLoader(data, batch_size=8, augment=Augment(padding=3), seed=seed, rank=rank, world_size=2)
        loader.set_epoch(number)
        return [x for x, _ in loader]

    batches = [x for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)) for x in epoch(*key)]
    assert len({x.numpy().tobytes() for x in batches}) == len(batches) == 16


def test_order_differs_by_seed_and_epoch_and_leaves_the_global_state() -> None:
    state = torch.get_rng_state()
    orders = set()
    for seed in range(3):
        loader = ImageLoader(make(30), batch_size=30, seed=seed)
        for epoch in range(3):
            loader.set_epoch(epoch)
            ((x, _),) = loader
            orders.add(tuple(ids(x)))
    assert len(orders) == 9 and torch.equal(torch.get_rng_state(), state)


def test_each_full_pass_is_the_next_epoch() -> None:
    loader = ImageLoader(make(24, size=4), batch_size=8, augment=Augment(padding=2, flip=True), seed=3)
    passes = [list(loader) for _ in range(3)]
    assert len({x.numpy().tobytes() for batches in passes for x, _ in batches}) == 9
    next(iter(loader))  # left early: the epoch is still to be gone through
    assert loader.epoch == 3
    for epoch, batches in enumerate(passes):
        loader.set_epoch(epoch)
        rest = list(loader.iterate(first_batch=1))
        assert all(torch.equal(x, again) for (x, _), (again, _) in zip(batches[1:], rest, strict=True))
        assert loader.epoch == epoch + 1


def test_unshuffled_order_is_that_of_the_data() -> None:
    batches = list(ImageLoader(make(7), batch_size=3, shuffle=False))
    assert [ids(x) for x, _ in batches] == [[0, 1, 2], [3, 4, 5], [6]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"batch_size": 1, "rank": 2, "world_size": 2}, "rank=2 is outside 0 to 1 for world_size=2"),
        ({"batch_size": 8, "drop_last": True}, "7 images give no batch of batch_size=8"),
        ({"batch_size": 1, "world_size": 8}, "7 images give no batch of batch_size=1 for each of 8 processes"),
    ],
)
def test_bad_options(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageLoader(make(7), **options)
