"""Batches of any loader as images, labels, and where each image comes from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from protoat.data.augment import Moves
from protoat.errors import UserError
from protoat.functional.images import class_numbers, unit_pixels

_IMAGES = ("image", "images", "pixel_values", "img")
_LABELS = ("label", "labels", "target", "targets")
_INDEX = ("index", "indices", "idx")


@dataclass(frozen=True, eq=False)
class Origin:
    """Where the images of a batch come from.

    Args:
        index: (B,) int64 number of each image in its data set, from 0.
        moves: how augmentation moved them; None left them as they are stored.

    Raises:
        ValueError: no integers, or a negative one.

    >>> import torch
    >>> Origin(torch.tensor([4, 2])).index
    tensor([4, 2])
    """

    index: Tensor
    moves: Moves | None = None

    def __post_init__(self) -> None:
        if self.index.dim() != 1 or self.index.is_floating_point():
            shape = tuple(self.index.shape)
            raise UserError(f"the index of images is {self.index.dtype} of shape {shape}, expected (B,) integers")
        if len(self.index) and int(self.index.min()) < 0:
            raise UserError(f"the index of an image is {int(self.index.min())}, expected numbers from 0")
        object.__setattr__(self, "index", self.index.long())


def as_batch(
    batch: Any, *, dtypes: Collection[torch.dtype] = (torch.float32,), labelled: bool = True
) -> tuple[Tensor, Tensor]:
    """Images (B, ...) in floating point and labels (B,) int64 of one batch.

    Args:
        batch: ``(x, y)``, of which more entries, such as an index, are left out; or a mapping with one of the keys
            ``image``, ``images``, ``pixel_values``, ``img`` and one of ``label``, ``labels``, ``target``, ``targets``.
            Tensors, NumPy arrays or, for labels, lists. Pixels of 8 bits are divided by 255.
        dtypes: floating-point types that the model takes; images of another become float32, or float64 where that is
            the only one of the two.
        labelled: False takes images alone, too, and gives them the label 0.

    Raises:
        ValueError: none of these, in one line.

    >>> x, y = as_batch({"pixel_values": np.full((2, 1, 4, 4), 255, dtype=np.uint8), "labels": [0, 1]})
    >>> x.dtype, float(x.max()), y
    (torch.float32, 1.0, tensor([0, 1]))
    """
    images, labels = _pair(batch, labelled)
    x = _tensor("images", images)
    wanted = float_type(dtypes)
    if x.dtype == torch.uint8:
        x = unit_pixels(x, wanted)
    if not x.is_floating_point():
        raise UserError(f"images are {x.dtype}, expected floats in [0, 1], or torch.uint8 from 0 to 255")
    if x.dim() < 2 or not len(x):
        raise UserError(f"images have shape {tuple(x.shape)}, expected a batch (B, ...) of at least one image")
    if x.dtype not in dtypes:
        x = x.to(wanted)
    if labels is None:
        return x, torch.zeros(len(x), dtype=torch.int64, device=x.device)
    return x, class_numbers(_tensor("labels", labels), len(x))


def float_type(dtypes: Collection[torch.dtype]) -> torch.dtype:
    """The type that images are given in to a model that takes `dtypes`: float64 where it takes no float32.

    >>> float_type([torch.float64]), float_type([torch.float16])
    (torch.float64, torch.float32)
    """
    return torch.float64 if torch.float64 in dtypes and torch.float32 not in dtypes else torch.float32


def origin_of(batch: Any) -> Origin:
    """Which images a batch holds: what follows images and labels, or is at ``index``, ``indices`` or ``idx``.

    Args:
        batch: as that of `as_batch`; the number of each image in the data set, (B,) integers, or its `Origin`.

    Raises:
        ValueError: none of these.

    >>> origin_of((torch.rand(2, 1, 4, 4), torch.tensor([0, 1]), [7, 5])).index
    tensor([7, 5])
    """
    if isinstance(batch, Mapping):
        found = _only(batch, _INDEX)
    else:
        found = batch[2] if isinstance(batch, Sequence) and len(batch) > 2 else None
    if found is None:
        raise UserError(
            "the method keeps something of each image, and a batch does not say which images it holds; give batches "
            "(x, y, index), such as those of protoat.ImageLoader(..., origins=True)"
        )
    return found if isinstance(found, Origin) else Origin(_tensor("index", found))


def _pair(batch: Any, labelled: bool) -> tuple[Any, Any]:
    """Images and labels; no labels where there need be none."""
    if isinstance(batch, Mapping):
        images, labels = (_only(batch, keys) for keys in (_IMAGES, _LABELS))
        if images is None or (labels is None and labelled):
            raise UserError(
                f"a batch is a mapping with the keys {', '.join(map(str, batch)) or 'none'}; expected one of "
                f"{', '.join(_IMAGES)}" + f" and one of {', '.join(_LABELS)}" * labelled
            )
        return images, labels
    if isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch) >= 1 + labelled:
        return batch[0], batch[1] if len(batch) > 1 else None
    if not labelled and (isinstance(batch, Tensor) or hasattr(batch, "__array__")):
        return batch, None
    size = f" of {len(batch)}" if isinstance(batch, Sequence) else ""
    raise UserError(f"a batch is a {type(batch).__name__}{size}, expected (x, y) or a mapping of images and labels")


def _only(batch: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    found = [key for key in keys if key in batch]
    if len(found) > 1:
        raise UserError(f"a batch has {' and '.join(found)}; leave one of them")
    return batch[found[0]] if found else None


def _tensor(what: str, value: Any) -> Tensor:
    """`value` as a tensor; an array is copied, as it may not be writable."""
    if isinstance(value, Tensor):
        return value
    listed = what != "images" and isinstance(value, list | tuple)
    if listed or hasattr(value, "__array__"):
        array = np.array(value)
        if array.dtype.kind in "biuf":
            return torch.from_numpy(array)
    raise UserError(f"{what} of a batch are a {type(value).__name__}, expected a tensor or a NumPy array of numbers")
