"""Classes with several modes: joining classes, thinning modes, and holding images out mode by mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from protoat.arguments import check_number, check_seed, check_whole
from protoat.data.base import ImageData
from protoat.data.torchvision_sets import CIFAR100_SUPERCLASSES
from protoat.errors import UserError
from protoat.names import nearest
from protoat.spelling import setting

#: Which classes become one: how many groups, CIFAR-100's superclasses, names of classes for each group or for each mode
#: of each group, or at random.
Groups = (
    int
    | Literal["superclasses"]
    | Mapping[str, Sequence[str | int]]
    | Mapping[str, Mapping[str, Sequence[str | int]]]
    | Mapping[str, int]
)


def regroup(data: ImageData, groups: Groups) -> ImageData:
    """Joins classes into new ones; every image keeps its old label as its mode.

    Modes are left as they are. Before any regrouping they equal the labels; where they are finer already, from the
    inner folders of `ImageFolder` or from an earlier regrouping, the finest stay, since they are the sub-populations.

    Args:
        data: images with their classes.
        groups: a number: that many blocks of consecutive classes, each called after its first and last (``"0-4"``).
            ``"superclasses"``: the twenty official ones of CIFAR-100. ``{"random": 2, "seed": 7}``: that many groups of
            equal size, drawn by the seed (default 0). A mapping from new names to lists of old names: images of classes
            that it leaves out are dropped, and so are their modes. A mapping from new names to mappings from names of
            modes to lists of old names: several old classes are one mode, called ``"new name/mode"``.

    Returns:
        The same images (fewer where a mapping leaves classes out), in the same order.

    Raises:
        ValueError: a number that does not divide the classes, superclasses of another data set, a name that is unknown,
            used twice, or not in a list, fewer than two new classes.

    Source: paper, section 4.1, which does not say how classes are joined; blocks are the plain reading of its Fig. 1,
    and several random draws show how much depends on that.

    >>> data = ImageData(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4), ("0", "1", "2", "3"))
    >>> two = regroup(data, 2)
    >>> two.class_names, two.labels.tolist(), two.modes.tolist()
    (('0-1', '2-3'), [0, 0, 1, 1], [0, 1, 2, 3])
    >>> regroup(data, {"even": ["0", "2"], "odd": ["1", "three"]})
    Traceback (most recent call last):
    protoat.errors.UserError: class 'three' of group 'odd' is unknown; the classes are 0, 1, 2, 3
    """
    if isinstance(groups, Mapping) and any(isinstance(modes, Mapping) for modes in groups.values()):
        return _into_modes(data, groups)
    members = _members(data.class_names, groups)
    if len(members) < 2:
        raise UserError(f"{setting(groups=groups)} gives {len(members)} class, expected at least two")
    new_label = torch.full((data.num_classes,), -1)
    for label, names in enumerate(members.values()):
        new_label[[data.class_names.index(name) for name in names]] = label
    labels = new_label.to(data.labels.device)[data.labels]
    kept = (labels >= 0).nonzero()[:, 0]
    owner = data.mode_class.cpu()
    mode_kept = (owner < 0) | (new_label[owner] >= 0)  # one without images stays, unless its class is known to go
    new_mode = mode_kept.cumsum(0).to(data.modes.device) - 1
    return ImageData(
        data.images[kept] if len(kept) < len(data) else data.images,
        labels[kept],
        tuple(members),
        new_mode[data.modes[kept]],
        tuple(name for name, keep in zip(data.mode_names, mode_kept.tolist(), strict=True) if keep),
    )


def _into_modes(data: ImageData, groups: Mapping[str, Any]) -> ImageData:
    """Joins classes into modes, and these into new classes."""
    for group, modes in groups.items():
        if not isinstance(modes, Mapping) or not modes:
            raise UserError(f"group {group!r} is {modes!r}, expected {{mode: [class names]}}, as of other groups")
    names = {group: {f"{group}/{mode}": classes for mode, classes in modes.items()} for group, modes in groups.items()}
    joined = regroup(data, {mode: classes for modes in names.values() for mode, classes in modes.items()})
    by_mode = ImageData(joined.images, joined.labels, joined.class_names)
    return regroup(by_mode, {group: list(modes) for group, modes in names.items()})


def in_order_of(data: ImageData, class_names: Sequence[str]) -> ImageData:
    """The same images with the same classes in another order.

    Raises:
        ValueError: other classes.

    >>> data = ImageData(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1]), ("a", "b"))
    >>> in_order_of(data, ["b", "a"]).labels
    tensor([1, 0])
    """
    if sorted(class_names) != sorted(data.class_names):
        raise UserError(f"the classes are {list(data.class_names)}, expected {list(class_names)} in any order")
    place = torch.tensor([list(class_names).index(name) for name in data.class_names], device=data.labels.device)
    return ImageData(data.images, place[data.labels], tuple(class_names), data.modes, data.mode_names)


def _members(class_names: tuple[str, ...], groups: Groups) -> dict[str, Sequence[str]]:
    """New class name -> old class names."""
    if groups == "superclasses":
        if set(class_names) != {name for names in CIFAR100_SUPERCLASSES.values() for name in names}:
            raise UserError(
                f"{setting(groups=groups)} is for CIFAR-100 only; write a number of groups or "
                "{new name: [class names]}"
            )
        return dict(CIFAR100_SUPERCLASSES)
    if isinstance(groups, int):
        return _blocks(class_names, groups)
    if not isinstance(groups, Mapping):
        raise UserError(
            f"{setting(groups=groups)} is unknown; write a number, 'superclasses', {{random: 2, seed: 0}} or "
            "{new name: [class names]}"
        )
    if isinstance(groups.get("random"), int):
        return _drawn(class_names, groups)
    return _checked(class_names, groups)


def _drawn(class_names: tuple[str, ...], groups: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    """Groups of classes that a seed draws, each in the order of the classes."""
    seed = groups.get("seed", 0)
    check_seed(seed=seed)
    if groups.keys() - {"random", "seed"}:
        raise UserError(
            f"{setting(groups=dict(groups))} is not valid; write {{random: number of groups, seed: 0 or more}}"
        )
    order = torch.randperm(len(class_names), generator=torch.Generator().manual_seed(seed)).tolist()
    drawn = _blocks(tuple(map(str, order)), groups["random"]).values()
    return {
        f"group {place}": [class_names[own] for own in sorted(map(int, block))] for place, block in enumerate(drawn)
    }


def _blocks(class_names: tuple[str, ...], groups: int) -> dict[str, Sequence[str]]:
    count = len(class_names)
    divisors = [number for number in range(2, count + 1) if count % number == 0]
    if groups not in divisors:
        raise UserError(
            f"{setting(groups=groups)} does not divide {count} classes; write one of {', '.join(map(str, divisors))}, "
            f"or {setting(groups=None)} to keep them"
        )
    size = count // groups
    blocks = [class_names[start : start + size] for start in range(0, count, size)]
    return {(block[0] if size == 1 else f"{block[0]}-{block[-1]}"): block for block in blocks}


def _checked(class_names: tuple[str, ...], groups: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    """A mapping by hand, each class of which is there once."""
    group_of: dict[str, str] = {}
    for group, names in groups.items():
        if isinstance(names, str) or not names:
            raise UserError(f"group {group!r} is {names!r}, expected a list of class names")
        for name in map(str, names):  # YAML takes a class called 3 for a number
            if name not in class_names:
                hint = nearest(name, class_names, instead=f"the classes are {', '.join(class_names)}")
                raise UserError(f"class {name!r} of group {group!r} is unknown; {hint}")
            if name in group_of:
                raise UserError(f"class {name!r} is in group {group_of[name]!r} and again in group {group!r}")
            group_of[name] = group
    return {str(group): [str(name) for name in names] for group, names in groups.items()}


def split_validation(data: ImageData, count: int, seed: int) -> tuple[ImageData, ImageData]:
    """Holds images out of training data for choosing the best checkpoint; the test split is never used for that.

    Args:
        data: training images.
        count: images to hold out; each mode gives its share, rounded so that the shares add up.
        seed: which images of a mode are held out.

    Returns:
        (train, validation), each in the order of `data`.

    Raises:
        ValueError: a count that leaves no image on one side.

    >>> data = ImageData(torch.zeros(8, 1, 2, 2, dtype=torch.uint8), torch.arange(8) % 2, ("a", "b"))
    >>> train, validation = split_validation(data, 4, seed=0)
    >>> train.counts.tolist(), validation.counts.tolist()
    ([2, 2], [2, 2])
    """
    check_seed(seed=seed)
    if not 0 < count < len(data):
        raise UserError(f"{count} validation images out of {len(data)}; write a number from 1 to {len(data) - 1}")
    check_whole(validation_size=count)
    sizes = _sizes(data)
    shares = count * sizes // len(data)
    # The images that rounding down left over go to the modes that lost most by it.
    rest = count * sizes % len(data)
    shares[rest.argsort(descending=True, stable=True)[: count - int(shares.sum())]] += 1
    held_out = _drawn_by_mode(data, shares, seed)
    return tuple(data.subset(part.nonzero()[:, 0].to(data.labels.device)) for part in (~held_out, held_out))  # type: ignore[return-value]


def long_tailed(data: ImageData, factor: float, seed: int) -> ImageData:
    """Thins the modes of each class, so that the last is `factor` times as rare as the first.

    Args:
        data: training images, each class of which has several modes.
        factor: above 1. Of K modes of a class, in the order of their numbers, mode k keeps the share
            ``factor ** (-k / (K - 1))`` of its images, and at least one.
        seed: which images are kept.

    Returns:
        Fewer images, in the order of `data`.

    Raises:
        ValueError: a factor of 1 or below, or a class of one mode.

    Source: Cui et al., CVPR 2019 (CIFAR-10-LT), for modes in place of classes.

    >>> data = ImageData(torch.zeros(80, 1, 2, 2, dtype=torch.uint8), torch.arange(80) % 4, ("a", "b", "c", "d"))
    >>> long_tailed(regroup(data, 2), 10, seed=0).modes.bincount().tolist()
    [20, 2, 20, 2]
    """
    check_seed(seed=seed)
    check_number("(1, inf)", "10 leaves a tenth of the rarest mode", factor=factor)
    sizes, owner = _sizes(data), data.mode_class.cpu()
    share = torch.ones(len(sizes), dtype=torch.float64)
    for label, name in enumerate(data.class_names):
        own = (owner == label).nonzero()[:, 0]
        if len(own) == 1:
            raise UserError(f"class {name!r} has one mode; join classes by groups, or give none of long_tail")
        share[own] = factor ** (-torch.arange(len(own), dtype=torch.float64) / max(len(own) - 1, 1))
    kept = _drawn_by_mode(data, (share * sizes).round().long().clamp_min(1), seed)
    return data.subset(kept.nonzero()[:, 0].to(data.labels.device))


def _sizes(data: ImageData) -> torch.Tensor:
    """(number of modes,) images of each mode."""
    return torch.bincount(data.modes.cpu(), minlength=len(data.mode_names))


def _drawn_by_mode(data: ImageData, counts: torch.Tensor, seed: int) -> torch.Tensor:
    """(N,) bool: so many images of each mode, drawn by the seed."""
    modes, sizes = data.modes.cpu(), _sizes(data)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(int(seed)))
    by_mode = order[modes[order].argsort(stable=True)]
    rank = torch.arange(len(data)) - (sizes.cumsum(0) - sizes)[modes[by_mode]]
    drawn = torch.zeros(len(data), dtype=torch.bool)
    drawn[by_mode] = rank < counts[modes[by_mode]]
    return drawn
