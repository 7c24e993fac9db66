from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from protoat.data import Groups, ImageData, long_tailed, regroup, split_validation


def make(labels: list[int], classes: int) -> ImageData:
    """Images that tell their own index."""
    index = torch.arange(len(labels))
    images = torch.stack([index // 256, index % 256], 1).to(torch.uint8).view(-1, 2, 1, 1)
    names = tuple(f"class {number}" for number in range(classes))
    return ImageData(images, torch.tensor(labels, dtype=torch.int64), names)


def ids(data: ImageData) -> list[int]:
    return [256 * int(image[0]) + int(image[1]) for image in data.images]


@st.composite
def labelled(draw: st.DrawFn) -> ImageData:
    classes = draw(st.integers(2, 12))
    return make(draw(st.lists(st.integers(0, classes - 1), min_size=2, max_size=60)), classes)


@settings(max_examples=60)
@given(labelled(), st.data())
def test_blocks_of_consecutive_classes(data: ImageData, draw: st.DataObject) -> None:
    groups = draw.draw(st.sampled_from([n for n in range(2, data.num_classes + 1) if data.num_classes % n == 0]))
    joined = regroup(data, groups)
    size = data.num_classes // groups
    assert joined.labels.tolist() == [label // size for label in data.labels.tolist()]
    assert joined.num_classes == groups and ids(joined) == ids(data)
    assert torch.equal(joined.modes, data.labels) and joined.mode_names == data.class_names


@settings(max_examples=60)
@given(labelled(), st.data())
def test_mapping(data: ImageData, draw: st.DataObject) -> None:
    """Every old class goes to one of three groups or is dropped; old names stay as modes."""
    goal = draw.draw(st.lists(st.sampled_from(["x", "y", "z", None]), min_size=len(data.class_names), max_size=12))
    goal = goal[: data.num_classes] + [None] * (data.num_classes - len(goal))
    groups = {g: [n for n, to in zip(data.class_names, goal, strict=True) if to == g] for g in ("z", "x", "y")}
    groups = {group: names for group, names in groups.items() if names}
    if len(groups) < 2:
        with pytest.raises(ValueError, match="expected at least two"):
            regroup(data, groups)
        return
    joined = regroup(data, groups)
    kept = [(i, label) for i, label in enumerate(data.labels.tolist()) if goal[label] is not None]
    assert joined.class_names == tuple(groups)
    assert ids(joined) == [i for i, _ in kept]
    assert [joined.class_names[label] for label in joined.labels.tolist()] == [goal[label] for _, label in kept]
    assert [joined.mode_names[mode] for mode in joined.modes.tolist()] == [data.class_names[label] for _, label in kept]
    present = {data.class_names[label] for _, label in kept}
    assert present <= set(joined.mode_names) <= set(data.class_names)


def test_regrouping_twice_keeps_the_finest_modes() -> None:
    data = make(list(range(8)), 8)
    twice = regroup(regroup(data, 4), 2)
    assert twice.labels.tolist() == [0] * 4 + [1] * 4 and twice.modes.tolist() == list(range(8))
    assert twice.mode_names == data.class_names
    assert twice.class_names == ("class 0-class 1-class 2-class 3", "class 4-class 5-class 6-class 7")


@settings(max_examples=40)
@given(st.integers(0, 2**40))
def test_groups_at_random_are_of_equal_size_and_depend_on_the_seed_only(seed: int) -> None:
    data = make(list(range(12)), 12)
    joined = regroup(data, {"random": 3, "seed": seed})
    assert joined.class_names == ("group 0", "group 1", "group 2")
    assert joined.counts.tolist() == [4, 4, 4] and joined.modes.tolist() == list(range(12))
    assert torch.equal(joined.labels, regroup(data, {"random": 3, "seed": seed}).labels)


def test_another_seed_draws_other_groups() -> None:
    data = make(list(range(12)), 12)
    drawn = {tuple(regroup(data, {"random": 2, "seed": seed}).labels.tolist()) for seed in range(5)}
    assert len(drawn) == 5
    assert torch.equal(regroup(data, {"random": 2}).labels, regroup(data, {"random": 2, "seed": 0}).labels)


def test_a_class_may_be_called_random() -> None:
    data = make(list(range(4)), 4)
    names = {"random": ["class 0", "class 2"], "other": ["class 1", "class 3"]}
    assert regroup(data, names).class_names == ("random", "other")


@settings(max_examples=60)
@given(labelled(), st.data())
def test_modes_of_several_classes(data: ImageData, draw: st.DataObject) -> None:
    """Each old class goes to one of four modes in two groups, or is dropped."""
    places = [("x", "a"), ("x", "b"), ("y", "a"), ("y", "c"), None]
    goal = draw.draw(st.lists(st.sampled_from(places), min_size=data.num_classes, max_size=data.num_classes))
    groups: dict[str, dict[str, list[str | int]]] = {}
    for name, place in zip(data.class_names, goal, strict=True):
        if place is not None:
            groups.setdefault(place[0], {}).setdefault(place[1], []).append(name)
    if len(groups) < 2:
        return
    joined = regroup(data, groups)
    kept = [(i, goal[label]) for i, label in enumerate(data.labels.tolist()) if goal[label] is not None]
    assert ids(joined) == [i for i, _ in kept]
    names = zip(joined.labels.tolist(), joined.modes.tolist(), strict=True)
    found = [(joined.class_names[label], joined.mode_names[mode]) for label, mode in names]
    assert found == [(group, f"{group}/{mode}") for _, (group, mode) in kept]  # type: ignore[misc]


def test_as_many_groups_as_classes_keeps_names() -> None:
    data = make([0, 1, 2], 3)
    assert regroup(data, 3).class_names == data.class_names


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (4, "groups=4 does not divide 6 classes; write one of 2, 3, 6"),
        (1, "groups=1 does not divide 6 classes"),
        (0, "groups=0 does not divide 6 classes"),
        (-2, "groups=-2 does not divide"),
        ("superclasses", "groups='superclasses' is for CIFAR-100 only"),
        ("superclass", "groups='superclass' is unknown; write a number, 'superclasses', {random"),
        ({"a": ["class 1"], "b": ["clas 2"]}, "class 'clas 2' of group 'b' is unknown; did you mean 'class 2'?"),
        ({"a": ["class 1"], "b": ["zzz"]}, "class 'zzz' of group 'b' is unknown; the classes are class 0, class 1"),
        ({"a": ["class 1"], "b": [2]}, "class '2' of group 'b' is unknown"),
        ({"a": ["class 1"], "b": ["class 1"]}, "class 'class 1' is in group 'a' and again in group 'b'"),
        ({"a": ["class 1", "class 1"], "b": ["class 2"]}, "is in group 'a' and again in group 'a'"),
        ({"a": ["class 1"], "b": []}, r"group 'b' is \[\], expected a list of class names"),
        ({"a": ["class 1"], "b": "class 2"}, "group 'b' is 'class 2', expected a list of class names"),
        ({"a": ["class 1"]}, "gives 1 class, expected at least two"),
        ({"a": {"m": ["class 1"]}, "b": ["class 2"]}, r"group 'b' is \['class 2'\], expected {mode: \[class names\]}"),
        ({"a": {"m": ["class 1"]}, "b": {"m": ["class 1"]}}, "'class 1' is in group 'a/m' and again in group 'b/m'"),
        ({"a": {"m": ["class 1"], "n": ["class 2"]}}, "gives 1 class, expected at least two"),
        ({"random": 4}, "groups=4 does not divide 6 classes; write one of 2, 3, 6"),
        ({"random": 2, "seed": -1}, "seed=-1 is outside 0 to 2"),
        ({"random": 2, "sed": 1}, "is not valid; write {random: number of groups, seed: 0 or more}"),
    ],
)
def test_bad_groups(groups: Groups, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        regroup(make(list(range(6)), 6), groups)


@settings(max_examples=100)
@given(labelled(), st.integers(0, 2**40), st.data())
def test_split_takes_a_share_of_each_mode(data: ImageData, seed: int, draw: st.DataObject) -> None:
    count = draw.draw(st.integers(1, len(data) - 1))
    train, validation = split_validation(data, count, seed)
    assert len(validation) == count
    assert sorted(ids(train) + ids(validation)) == list(range(len(data)))
    assert ids(train) == sorted(ids(train)) and ids(validation) == sorted(ids(validation))
    for mode, held_out in zip(data.counts.tolist(), validation.counts.tolist(), strict=True):
        assert abs(held_out - count * mode / len(data)) < 1
    again = split_validation(data, count, seed)[1]
    assert ids(again) == ids(validation)


def test_split_is_by_mode_and_depends_on_the_seed() -> None:
    data = regroup(make([0] * 50 + [1] * 30 + [2] * 20 + [3] * 100, 4), 2)
    _, validation = split_validation(data, 20, seed=0)
    assert torch.bincount(validation.modes).tolist() == [5, 3, 2, 10]
    assert validation.class_names == data.class_names and torch.equal(validation.labels, validation.modes // 2)
    assert ids(split_validation(data, 20, seed=1)[1]) != ids(validation)


def test_every_image_is_equally_likely_to_be_held_out() -> None:
    data = make([0] * 10 + [1] * 10, 2)
    times = torch.zeros(20)
    for seed in range(1000):
        times[ids(split_validation(data, 4, seed)[1])] += 1
    assert (times - 200).abs().max() < 5 * (1000 * 0.2 * 0.8) ** 0.5


@pytest.mark.parametrize("count", [0, -1, 6, 7])
def test_split_that_leaves_nothing(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} validation images out of 6; write a number from 1 to 5"):
        split_validation(make([0, 1] * 3, 2), count, seed=0)


@pytest.mark.parametrize("names", [{"even": [0, 2], "odd": [1, 3]}, {0: ["0", 2], 1: [1, "3"]}])
def test_classes_that_are_numbers_may_be_written_as_numbers(names: dict[Any, Any]) -> None:
    data = ImageData(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.arange(4), ("0", "1", "2", "3"))
    joined = regroup(data, names)
    assert joined.class_names == tuple(map(str, names))
    assert joined.labels.tolist() == [0, 1, 0, 1]


@settings(max_examples=60)
@given(st.lists(st.integers(1, 40), min_size=6, max_size=6), st.floats(1.01, 200), st.integers(0, 9))
def test_the_last_mode_of_each_class_is_the_rarest(counts: list[int], factor: float, seed: int) -> None:
    data = regroup(make([mode for mode, count in enumerate(counts) for _ in range(count)], 6), 2)
    thinned = long_tailed(data, factor, seed)
    for mode, count in enumerate(counts):
        left = int((thinned.modes == mode).sum())
        assert left == max(1, round(count * factor ** -((mode % 3) / 2)))
    assert ids(thinned) == sorted(ids(thinned)) and thinned.mode_names == data.mode_names
    assert torch.equal(thinned.labels, thinned.modes // 3)


def test_classes_of_one_mode_have_no_tail() -> None:
    with pytest.raises(ValueError, match="class 'class 0' has one mode; join classes by groups"):
        long_tailed(make([0, 1] * 3, 2), 10, seed=0)
    with pytest.raises(ValueError, match=r"factor=1.*\(1, inf\)"):
        long_tailed(regroup(make([0, 1, 2, 3], 4), 2), 1, seed=0)
