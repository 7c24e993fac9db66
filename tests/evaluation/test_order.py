"""Every beginning of the fair order holds its share of each mode."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from protoat.data import ImageData
from protoat.evaluation import fair_order


def of_modes(modes: list[int]) -> ImageData:
    names = tuple("abcde")
    return ImageData(torch.zeros(len(modes), 1, 8, 8, dtype=torch.uint8), torch.tensor(modes), names)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=80))
def test_each_beginning_is_fair(modes: list[int]) -> None:
    order = fair_order(of_modes(modes)).tolist()
    assert sorted(order) == list(range(len(modes)))
    for length in range(1, len(modes) + 1):
        for mode in set(modes):
            held = sum(modes[index] == mode for index in order[:length])
            assert abs(held - length * modes.count(mode) / len(modes)) < 3
            if length * 5 == len(modes) * 5:
                assert held == modes.count(mode)


def test_equal_modes_are_shared_exactly_and_mixed() -> None:
    modes = torch.arange(5).repeat_interleave(20).tolist()
    order = fair_order(of_modes(modes)).tolist()
    for length in range(5, 101, 5):
        assert [sum(modes[i] == mode for i in order[:length]) for mode in range(5)] == [length // 5] * 5
    assert order == fair_order(of_modes(modes)).tolist()
    assert [i for i in order if modes[i] == 0] != sorted(range(20))
