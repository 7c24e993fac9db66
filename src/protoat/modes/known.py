"""The modes that come with the data: inner folders, regrouped classes, or a name for each image."""

from __future__ import annotations

import torch

from protoat.data import ImageData
from protoat.data.base import UNKNOWN_MODE
from protoat.errors import UserError
from protoat.modes.base import Modes


class KnownModes(Modes):
    """The modes of the training images as the data has them, each with a prototype of its own.

    Modes without training images are left out. A mode called ``(unknown)``, or ``class/(unknown)``, is none: its images
    keep the class loss. So are called the pictures of a class folder that lie beside its mode folders.

    Args:
        data, mode_weight, mode_start, mode_ramp, mode_stop: see `Modes`.

    Raises:
        TypeError, ValueError: see `Modes`; or data whose every class has one mode only.

    Source: lambda between classes and modes is ours. That training on clusters, not on classes, keeps networks from
    averaging their features: Li et al., ICLR 2025 (Feature Averaging).

    >>> images = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    >>> data = ImageData(images, torch.tensor([0, 0, 1, 1]), ("a", "b"), torch.arange(4), ("a/x", "a/y", "b/x", "b/y"))
    >>> modes = KnownModes(data, mode_weight=0.3)
    >>> modes.per_class, modes.class_of, modes.place
    ([2, 2], tensor([0, 0, 1, 1]), tensor([0, 1, 0, 1]))
    """

    def __init__(
        self,
        data: ImageData,
        *,
        mode_weight: float = 0.5,
        mode_start: float = 0.0,
        mode_ramp: float = 0.0,
        mode_stop: float = 1.0,
    ) -> None:
        super().__init__(data, mode_weight=mode_weight, mode_start=mode_start, mode_ramp=mode_ramp, mode_stop=mode_stop)
        owner = data.mode_class.cpu()
        told = [name.rpartition("/")[2] != UNKNOWN_MODE for name in data.mode_names]
        kept = [mode for mode, known in enumerate(told) if known and owner[mode] >= 0]
        if max(torch.bincount(owner[kept], minlength=1)) < 2:
            raise UserError(
                "no class of the images has two modes; give them by inner folders, class/mode/*.png, or by joining "
                "classes, or train without modes"
            )
        number = torch.full((len(told) + 1,), -1)
        number[kept] = torch.arange(len(kept))
        self.tell(data.labels, number[data.modes.cpu()], owner[kept], [data.mode_names[mode] for mode in kept])
