"""What is kept of each image, against a dictionary of single images; crops and flips against loops over pixels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from protoat.data import Augment, ImageData, ImageLoader, Origin
from protoat.data.augment import Moves
from protoat.methods.image_memory import ImageMemory

SHAPE = (2, 3, 4)


def values(seed: int, count: int) -> Tensor:
    """Numbers that half precision holds."""
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed)).half().float()


@settings(max_examples=60)
@given(st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=5, unique=True), min_size=1, max_size=8))
def test_rows_are_those_of_a_dictionary(batches: list[list[int]]) -> None:
    memory, kept = ImageMemory(a=torch.float16, b=torch.bfloat16), {}
    for number, indices in enumerate(batches):
        origin, x, drawn = Origin(torch.tensor(indices)), values(0, len(indices)), values(99, len(indices))
        found = memory.read(origin, x, a=drawn)
        for row, index in enumerate(indices):
            a, b = kept.get(index, (drawn[row], torch.zeros(SHAPE)))
            assert torch.equal(found["a"][row], a) and torch.equal(found["b"][row], b)
        new = values(number + 1, len(indices))
        memory.write(origin, a=new, b=new.sign())
        kept |= {index: (new[row], new[row].sign()) for row, index in enumerate(indices)}
    memory.exchange()  # of one process changes nothing
    x = values(0, len(kept))
    found = memory.read(Origin(torch.tensor(list(kept))), x)
    assert torch.equal(found["a"], torch.stack([a for a, _ in kept.values()]))
    memory.forget()
    assert torch.equal(memory.read(Origin(torch.tensor(list(kept))), x, a=x)["a"], x)


def slowly_undone(moved: Tensor, before: Tensor, padding: int, place: tuple[int, int], flipped: bool) -> Tensor:
    """Pixel by pixel: where each pixel of the stored image went, if it is still there."""
    result, (top, left) = before.clone(), place
    _, height, width = before.shape
    for row in range(height):
        for column in range(width):
            to_row, to_column = row + padding - top, (width - 1 - column if flipped else column) + padding - left
            if 0 <= to_row < height and 0 <= to_column < width:
                result[:, row, column] = moved[:, to_row, to_column]
    return result


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(0, 3), st.booleans())
def test_what_is_written_lies_on_the_stored_pixels(seed: int, padding: int, flip: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    moves = Augment(padding=padding, flip=flip).draw(4, generator)
    moves = moves or Moves(0, torch.zeros(4, dtype=torch.int64), torch.zeros(4, dtype=torch.int64))
    origin, before, moved = Origin(torch.tensor([3, 0, 5, 2]), moves), values(1, 4), values(2, 4)
    memory = ImageMemory(a=torch.float16)
    memory.write(Origin(origin.index), a=before)
    assert torch.equal(memory.read(origin, before)["a"], moves(before))
    memory.write(origin, a=moved)
    found = memory.read(Origin(origin.index), before)["a"]
    flipped = [False] * 4 if moves.flipped is None else moves.flipped.tolist()
    for i, place in enumerate(zip(moves.top.tolist(), moves.left.tolist(), strict=True)):
        assert torch.equal(found[i], slowly_undone(moved[i], before[i], padding, place, flipped[i]))


def test_the_loader_says_where_its_images_come_from() -> None:
    images = torch.randint(256, (11, 3, 6, 6), dtype=torch.uint8)
    data = ImageData(images, torch.arange(11) % 2, ("a", "b"))
    augment = Augment(padding=2, flip=True)
    plain = ImageLoader(data, batch_size=4, augment=augment, seed=5)
    told = ImageLoader(data, batch_size=4, augment=augment, seed=5, origins=True)
    for (x, y), (same, labels, origin) in zip(plain, told, strict=True):
        assert torch.equal(x, same) and torch.equal(y, labels) and torch.equal(data.labels[origin.index], y)
        assert torch.equal(origin.moves(images[origin.index]).float() / 255, x)


def test_state_goes_into_an_object_that_knows_nothing() -> None:
    memory, other, origin = ImageMemory(a=torch.float16), ImageMemory(a=torch.float16), Origin(torch.tensor([4, 1]))
    assert not memory.state_dict()
    memory.write(origin, a=values(0, 2))
    state = memory.state_dict()
    assert {name: value.dtype for name, value in state.items()} == {"a": torch.float16, "written": torch.uint8}
    other.load_state_dict(state)
    x = values(1, 2)
    assert torch.equal(other.read(origin, x)["a"], memory.read(origin, x)["a"])


def test_what_does_not_fit_is_refused() -> None:
    memory = ImageMemory(a=torch.float16)
    memory.write(Origin(torch.tensor([0])), a=torch.zeros(1, 1, 2, 2))
    with pytest.raises(ValueError, match=r"images were \(1, 2, 2\) so far, got \(1, 4, 1\)"):
        memory.read(Origin(torch.tensor([0])), torch.zeros(1, 1, 4, 1))
    with pytest.raises(ValueError, match="2 images came with the numbers of 1"):
        memory.read(Origin(torch.tensor([0])), torch.zeros(2, 1, 2, 2))
    with pytest.raises(ValueError, match="the index of an image is -1"):
        Origin(torch.tensor([-1, 0]))
    with pytest.raises(ValueError, match=r"torch.float32 of shape \(2,\), expected \(B,\) integers"):
        Origin(torch.rand(2))
