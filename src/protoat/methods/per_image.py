"""Methods that carry the perturbation of every image from one epoch to the next."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from protoat.arguments import check_whole
from protoat.data import Origin
from protoat.errors import UserError
from protoat.methods.base import OneStep
from protoat.methods.image_memory import ImageMemory
from protoat.threats import ThreatModel


class PerImage(OneStep):
    """Keeps something of every image, and forgets all of it every few epochs.

    A subclass reads and writes `kept` at `origin`. What is kept is state: it is in every checkpoint, in half
    precision, and of several processes each has all of it after each epoch.

    Args:
        threat: norm and radius.
        tables: what is kept.
        reset_epochs: epochs after which every perturbation starts anew; None never.
        ramp_epochs: epochs over which the radius grows from 0.

    Attributes:
        kept: what is kept, by name.
        passes: epochs that were ended.

    Raises:
        ValueError: less than one epoch; in use, batches that do not say which images they hold.
    """

    passes: Tensor

    def __init__(
        self, threat: ThreatModel, tables: ImageMemory, *, reset_epochs: int | None, ramp_epochs: float = 0.0
    ) -> None:
        super().__init__(threat, ramp_epochs=ramp_epochs)
        if reset_epochs is not None:
            check_whole(1, "or None, which never resets", reset_epochs=reset_epochs)
        self.kept = tables
        self.reset_epochs = reset_epochs
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))
        self._origin: Origin | None = None

    @property
    def per_image(self) -> bool:
        return True

    @property
    def may_stop(self) -> bool:
        return False

    def at_images(self, origin: Origin | None = None) -> None:
        self._origin = origin

    def origin(self, x: Tensor) -> Origin:
        """Which images `x` are, told by `at_images` for this batch alone."""
        origin, self._origin = self._origin, None
        if origin is None:
            raise UserError(
                f"{type(self).__name__} keeps a perturbation of each image and was not told which images these are; "
                "give objective.losses(model, x, y, origin), with protoat.data.Origin(index)"
            )
        return origin

    def end_epoch(self, model: nn.Module) -> str | None:
        self.passes += 1
        if self.reset_epochs is not None and int(self.passes) % self.reset_epochs == 0:
            self.kept.forget()
        elif self.per_image:
            self.kept.exchange()
        return None
