"""Reads test images from a loader, a data set, tensors, arrays or `ImageData`."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler

from protoat.data.base import UNKNOWN_MODE, ImageData
from protoat.data.batch_format import as_batch, float_type
from protoat.data.listing import in_order
from protoat.data.loader import ImageLoader
from protoat.errors import UserError, in_a_line
from protoat.functional.images import unit_pixels
from protoat.functional.preserve import preserve_host_random_state, set_random_state

logger = logging.getLogger(__name__)

LabelledImages = ImageData | ImageLoader | Iterable[Any] | Dataset[Any]

_BATCH_SIZE = 256
_LOOKED_AT = 8  # items that are read twice; an augmentation leaves at least one of them as it was in one of 256 cases
FORMS = "a DataLoader, (x, y) of tensors or arrays, a Dataset, or protoat.ImageData"


@dataclass(frozen=True, eq=False)
class Given:
    """Images with labels, and what was told of classes and modes.

    Attributes:
        images: (N, ...) uint8 where every pixel is a multiple of 1/255 exactly, otherwise floats as they came.
        labels: (N,) int64.
        modes: N integers or names, one for each image, None where it is unknown; or None.
        class_names: as the data set has them, or empty.
    """

    images: Tensor
    labels: Tensor
    modes: Any = None
    class_names: tuple[str, ...] = ()

    def named(self, classes: int) -> ImageData:
        """The same as `ImageData` of so many classes; a mode that two classes share becomes one of each.

        Raises:
            ValueError: images that are not (N, C, H, W) in [0, 1], labels outside the classes, or too few modes.
        """
        names = self.class_names if len(self.class_names) == classes else tuple(map(str, range(classes)))
        if self.modes is None:
            return ImageData(self.images, self.labels, names)
        told = [UNKNOWN_MODE if mode is None else str(mode) for mode in np.asarray(self.modes).tolist()]
        if len(told) != len(self.labels):
            raise UserError(f"modes are {len(told)}, expected one for each of {len(self.labels)} images")
        pairs = list(zip(self.labels.tolist(), told, strict=True))
        kinds = sorted(set(pairs), key=lambda pair: (pair[0], in_order(pair[1])))
        shared = len({mode for _, mode in kinds}) < len(kinds)
        place = {pair: index for index, pair in enumerate(kinds)}
        named = tuple(f"{names[label]}/{mode}" if shared else mode for label, mode in kinds)
        return ImageData(self.images, self.labels, names, torch.tensor([place[pair] for pair in pairs]), named)


def as_image_data(
    data: Any,
    *,
    modes: Any = None,
    dtypes: Collection[torch.dtype] = (torch.float32,),
    classes: Callable[[Tensor], int] | None = None,
) -> ImageData:
    """Test images in any of the forms of `read_images`, or those of an `ImageLoader` or `ImageData`.

    Args:
        data, modes, dtypes: see `read_images`.
        classes: told the first four images or fewer, (B, ...) in [0, 1], says how many classes there are; default: as
            the labels have.

    Raises:
        TypeError, ValueError: see `read_images` and `Given.named`.
    """
    if isinstance(data, ImageLoader):
        if data.shuffle or data.augment is not None:
            logger.warning("the loader shuffles or augments: the images that it draws from are taken, as they are")
        data = data.data
    if isinstance(data, ImageData):
        data = _fitting(data, dtypes)
        return (
            data if modes is None else Given(data.images, data.labels, modes, data.class_names).named(data.num_classes)
        )
    given = read_images(data, modes=modes, dtypes=dtypes)
    return given.named(1 + int(given.labels.max()) if classes is None else classes(unit_pixels(given.images[:4])))


def _fitting(data: ImageData, dtypes: Collection[torch.dtype]) -> ImageData:
    """The same images as floats that the model takes; 8-bit ones stay where it takes float32, which they become."""
    present, wanted = data.images.dtype, float_type(dtypes)
    if present in dtypes or (present == torch.uint8 and wanted == torch.float32):
        return data
    return replace(data, images=unit_pixels(data.images, wanted))


def is_whole(data: Any) -> bool:
    """Whether these are images to be read at once, and not batches."""
    return isinstance(data, ImageData | Dataset) or _are_arrays(data)


def read_images(data: Any, *, modes: Any = None, dtypes: Collection[torch.dtype] = (torch.float32,)) -> Given:
    """Reads test images once, in a fixed order, and keeps their exact values.

    A loader that only shuffles is read in the order of its data set; what else makes the images random is logged. The
    global random states are afterwards as before.

    Args:
        data: a `DataLoader` or another iterable of batches, see `as_batch`; ``(x, y)`` or ``(x, y, modes)`` of tensors
            or arrays, x in [0, 1] or uint8 from 0 to 255; or a torch `Dataset`.
        modes: the mode of each image, N integers or names, in the order of the data.
        dtypes: floating-point types that the model takes.

    Raises:
        TypeError: none of these.
        ValueError: no images, a batch of another form, or `modes` for a loader with a sampler of its own.

    >>> x, y = torch.tensor([0.0, 0.2, 0.25]).view(3, 1, 1, 1), torch.arange(3)
    >>> read_images((x[:2], y[:2])).images.dtype, read_images((x, y)).images.dtype
    (torch.uint8, torch.float32)
    """
    if _are_arrays(data):
        modes = data[2] if len(data) > 2 and modes is None else modes
        data = [data[:2]]
    names = _class_names(data)
    with preserve_host_random_state(torch.device("cpu")):
        images, labels = _collected(_batches(data, in_order=modes is not None), dtypes)
    return Given(images, labels, modes, names)


def _collected(batches: Iterable[Any], dtypes: Collection[torch.dtype]) -> tuple[Tensor, Tensor]:
    """All images and labels on the CPU; 8 bits a pixel for as long as that changes no value."""
    parts: list[Tensor] = []
    labels: list[Tensor] = []
    for batch in batches:
        x, y = as_batch(batch, dtypes=dtypes)
        parts.append(_eight_bit(x.cpu()))
        labels.append(y.cpu())
    if not parts:
        raise UserError("the data holds no images")
    if len({part.dtype for part in parts}) > 1:
        parts = [unit_pixels(part) for part in parts]
    shapes = {tuple(part.shape[1:]) for part in parts}
    if len(shapes) > 1:
        first, second, *_ = sorted(shapes)
        raise UserError(f"images have shapes {first} and {second}; bring them to one size")
    return torch.cat(parts), torch.cat(labels)


def _eight_bit(x: Tensor) -> Tensor:
    """The images as uint8 where that gives the very same floats back, otherwise themselves."""
    levels = (x * 255).round().clamp(0, 255).to(torch.uint8)
    exact = unit_pixels(levels)
    return levels if exact.dtype == x.dtype and torch.equal(exact, x) else x


def _are_arrays(data: Any) -> bool:
    """Whether these are images, labels and perhaps modes, and not batches."""
    of_right_size = isinstance(data, tuple | list) and len(data) in (2, 3)
    return of_right_size and (isinstance(data[0], Tensor) or hasattr(data[0], "__array__"))


def _class_names(data: Any) -> tuple[str, ...]:
    """As data sets of torchvision have them."""
    names = getattr(getattr(data, "dataset", data), "classes", None)
    return tuple(map(str, names)) if isinstance(names, Sequence) and not isinstance(names, str) else ()


def _batches(data: Any, *, in_order: bool) -> Iterator[Any]:
    if isinstance(data, str) or not (hasattr(data, "__iter__") or hasattr(data, "__getitem__")):
        raise TypeError(f"data is a {type(data).__name__}, expected {FORMS}")
    of_items = isinstance(data, Dataset)
    loader: Any = DataLoader(data, batch_size=_BATCH_SIZE) if of_items else data
    if isinstance(loader, DataLoader):
        loader = _in_order(loader, needed=in_order)
        if _is_random(loader.dataset):
            logger.warning(
                "images differ when they are read twice, as under augmentation: one draw of each is measured"
            )
    _seed()
    try:
        yield from loader
    except TypeError as error:
        if not of_items:
            raise
        reason = in_a_line(error)
        raise UserError(f"the items of the data set make no batch ({reason}); give it transform=ToTensor()") from error


def _in_order(loader: DataLoader[Any], *, needed: bool) -> DataLoader[Any]:
    """A loader of the same images in the order of the data set, where the given one only shuffles them.

    Raises:
        ValueError: it draws images in an order of its own, and that of the data set is `needed`.
    """
    if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
        return loader
    sampler: Any = loader.sampler if type(loader.batch_sampler) is BatchSampler else loader.batch_sampler
    shuffles = (
        isinstance(sampler, RandomSampler) and not sampler.replacement and len(sampler) == len(sampler.data_source)
    )
    if not shuffles and not isinstance(sampler, SequentialSampler):
        if needed:
            raise UserError(
                f"modes are in the order of the data set, and the loader draws images by {type(sampler).__name__}; "
                "pass the data set itself, or a loader without a sampler"
            )
        logger.warning("the loader draws images by %s: they are measured as they come", type(sampler).__name__)
    elif shuffles or loader.drop_last:
        what = "shuffles" if shuffles else "leaves out images at its end (drop_last)"
        logger.warning("the loader %s: all images are measured, in the order of its data set", what)
        return DataLoader(
            loader.dataset,
            batch_size=loader.batch_size,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            worker_init_fn=loader.worker_init_fn,
        )
    return loader


def _is_random(dataset: Any) -> bool:
    """Whether some of the first items are others when they are read again."""
    if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        return False
    _seed()
    first, second = ([dataset[i] for i in range(min(_LOOKED_AT, len(dataset)))] for _ in range(2))
    return not all(map(_same, first, second))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, tuple | list):
        return all(map(_same, one, other))
    return bool(np.array_equal(np.asarray(one), np.asarray(other)))


def _seed() -> None:
    """What a data set draws from, so that the same images are read each time."""
    set_random_state(torch.device("cpu"), 0)
    random.seed(0)
    np.random.seed(0)
