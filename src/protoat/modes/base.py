"""The base class of modes: the mode of each training image, its prototype, and the weight of the mode loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, nn

from protoat.arguments import check_kind, check_number
from protoat.data import ImageData, Origin
from protoat.errors import UserError
from protoat.functional.mode_loss import mode_cross_entropy
from protoat.memory import Memory
from protoat.models.head import multi_prototype_head
from protoat.reprs import constructor_repr
from protoat.spelling import setting
from protoat.types import Output


class Modes(Memory, ABC):
    """Which mode each training image has; each mode owns a prototype of its class in a `MultiPrototypeHead`.

    `Objective` minimises (1 - lambda) x the method's loss + lambda x the cross-entropy of the mode over all prototypes.
    The attack climbs the class loss alone, but for that of `FreeAT`, whose one backward is of the total loss. An image
    whose mode is unknown keeps the method's loss.

    Args:
        data: the images trained on, in the order by whose numbers loaders name them, see `Origin`.
        mode_weight: lambda, in [0, 1]. With 0 the head may be any, and modes only serve a weighting.
        mode_start: share of the run in [0, 1) before lambda sets in.
        mode_ramp: share of the run in [0, 1] over which it then grows linearly from 0.
        mode_stop: share of the run in (0, 1] after which lambda is 0.

    Attributes:
        of_image: (N,) int64 buffer, the mode of each training image in 0..M-1; -1 where it is unknown.
        class_of: (M,) int64 buffer, the class of each mode.
        place: (M,) int64 buffer, the place of the mode's prototype among those of its class.
        names: (M) names of the modes.
        digest: SHA-256 of the classes, and of the modes told; a resumed run must have the same.

    Raises:
        TypeError: no `ImageData`.
        ValueError: a number out of range, or `mode_stop` before `mode_start`; in use, batches that do not say which
            images they hold, or that hold others.
    """

    memory = ("of_image", "class_of", "place")
    of_image: Tensor
    class_of: Tensor
    place: Tensor

    @abstractmethod
    def __init__(
        self,
        data: ImageData,
        *,
        mode_weight: float = 0.5,
        mode_start: float = 0.0,
        mode_ramp: float = 0.0,
        mode_stop: float = 1.0,
    ) -> None:
        super().__init__()
        check_kind(ImageData, data=data)
        check_number("[0, 1]", "0.5 weighs classes and modes alike", mode_weight=mode_weight)
        check_number("[0, 1)", "it is a share of the run", mode_start=mode_start)
        check_number("[0, 1]", "it is a share of the run", mode_ramp=mode_ramp)
        check_number("(0, 1]", "it is a share of the run", mode_stop=mode_stop)
        if mode_stop <= mode_start:
            raise UserError(f"{setting(mode_stop=mode_stop)} is not after {setting(mode_start=mode_start)}")
        self.mode_weight = mode_weight
        self.mode_start = mode_start
        self.mode_ramp = mode_ramp
        self.mode_stop = mode_stop
        self.num_classes = data.num_classes
        self._labels = data.labels
        self.names: tuple[str, ...] = ()
        self.digest = ""
        self._progress: float | None = None

    def __repr__(self) -> str:
        return constructor_repr(self)

    def tell(self, labels: Tensor, of_image: Tensor, class_of: Tensor, names: Sequence[str]) -> None:
        """Fills the tables; modes take the places of their class in their own order.

        Args:
            labels: (N,) int64 classes of the images.
            of_image, class_of, names: see the attributes.
        """
        order, counts = class_of.argsort(stable=True), torch.bincount(class_of)
        place = torch.empty_like(class_of)
        place[order] = torch.arange(len(order)) - (counts.cumsum(0) - counts)[class_of[order]]
        self.of_image, self.class_of, self.place = of_image, class_of, place
        self.names = tuple(names)
        total = sha256(repr(self.names).encode())
        for table in (labels, of_image, class_of):
            total.update(table.cpu().contiguous().numpy().tobytes())
        self.digest = total.hexdigest()

    @property
    def per_class(self) -> list[int]:
        """How many modes each class has; 1 where it has no image of known mode."""
        return torch.bincount(self.class_of, minlength=self.num_classes).clamp_min(1).tolist()

    @property
    def names_in_places(self) -> list[list[str]]:
        """For each class the names of its modes, in the order of their prototypes."""
        found: list[list[str]] = [[] for _ in range(self.num_classes)]
        for label, name in zip(self.class_of.tolist(), self.names, strict=True):
            found[label].append(name)
        return found

    @property
    def prototypes_per_class(self) -> list[int] | None:
        """How many prototypes a head needs in each class; None where lambda is 0, and any head will do."""
        return self.per_class if self.mode_weight else None

    @property
    def weight(self) -> float:
        """Present lambda; a loop without `Objective.epochs` is past start and ramp, and before the stop."""
        done = self._progress
        if done is None:
            return self.mode_weight
        if not self.mode_start <= done < self.mode_stop:
            return 0.0
        since = done - self.mode_start
        return self.mode_weight * (min(1.0, since / self.mode_ramp) if self.mode_ramp else 1.0)

    def prepare(self, model: nn.Module) -> None:
        """Looks at the model before training begins.

        Raises:
            ValueError: see `check_head`, where lambda is not 0.
        """
        if self.mode_weight:
            self.check_head(model)

    def unreached(self, epochs: int) -> list[str]:
        """What never happens in a run of so many epochs, in words, and what to write instead; `fit` warns of it."""
        return []

    def end_epoch(self, epoch: int, epochs: int, model: nn.Module) -> dict[str, Any]:
        """Called after pass `epoch` (from 1) of `epochs`; returns facts for the log, as JSON values."""
        return {}

    def at_epoch(self, epoch: float, epochs: float) -> None:
        """Tells how far training is, in passes over the data, and of how many."""
        self._progress = epoch / epochs

    def at(self, origin: Origin | None, y: Tensor) -> Tensor:
        """The modes of a batch, (B,) int64; -1 where unknown.

        Args:
            origin: which images it holds.
            y: (B,) labels.

        Raises:
            ValueError: no origin, or images that are not those of the tables.
        """
        if self.of_image is None:
            raise UserError("the state that was loaded holds no modes: it is of a run without them")
        if origin is None:
            raise UserError(
                f"{type(self).__name__} was not told which images a batch holds; give "
                "objective.losses(model, x, y, origin), with the origin from protoat.ImageLoader(..., origins=True)"
            )
        index = origin.index.to(y.device)
        if len(index) != len(y):
            raise UserError(f"{len(y)} images came with the numbers of {len(index)}")
        if len(index) and int(index.max()) >= len(self.of_image):
            raise UserError(
                f"a batch holds image {int(index.max())}, and modes are known of {len(self.of_image)}, from 0; build "
                f"{type(self).__name__} from the images that the loader draws from"
            )
        self.to(y.device)
        modes = self.of_image[index]
        other = (modes >= 0) & (self.class_of[modes] != y)
        if bool(other.any()):
            wrong = int(other.nonzero()[0])
            raise UserError(
                f"image {int(index[wrong])} has label {int(y[wrong])}, and its mode is of class "
                f"{int(self.class_of[modes[wrong]])}; build {type(self).__name__} from the images that the loader "
                "draws from, in their order"
            )
        return modes

    @property
    def num_groups(self) -> int:
        """Groups of images for a weighting: the modes, and for each class its images of unknown mode."""
        return len(self.class_of) + self.num_classes

    def groups(self, modes: Tensor, y: Tensor) -> Tensor:
        """The group of each image, (B,): its mode, or M + class where that is unknown."""
        return torch.where(modes < 0, len(self.class_of) + y, modes)

    def all_groups(self) -> tuple[Tensor, int]:
        """The group of each training image, (N,), and how many groups there are."""
        return self.groups(self.of_image, self._labels.to(self.of_image.device)), self.num_groups

    def places(self, modes: Tensor) -> Tensor:
        """Place of each mode's prototype within its class, (B,) int64; -1 where the mode is unknown."""
        return torch.where(modes < 0, -1, self.place[modes])

    def losses(self, model: nn.Module, output: Output, modes: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
        """Cross-entropy of each image's mode over all prototypes, (B,); 0 where the mode is unknown.

        Args:
            model: with a `MultiPrototypeHead`.
            output: of the images.
            modes: (B,), see `at`.
            label_smoothing: share of the target that is spread evenly over all prototypes.

        Raises:
            ValueError: another head, or one with too few prototypes.
        """
        head = self.check_head(model)
        scores = head.sub_logits(output.embedding)
        target = torch.where(modes < 0, -1, self.class_of[modes] * scores.shape[2] + self.place[modes])
        return mode_cross_entropy(scores, target, label_smoothing=label_smoothing)

    def check_head(self, model: nn.Module) -> Any:
        """The head of `model`.

        Raises:
            ValueError: it has no prototypes, or fewer than there are modes.
        """
        head = multi_prototype_head(model)
        if head is None:
            raise UserError(
                f"{setting(mode_weight=self.mode_weight)} needs a head with a prototype for each mode; write "
                f"protoat.with_head(model, protoat.MultiPrototypeHead(D, {self.num_classes}, "
                f"prototypes_per_class={self.per_class})), or {setting(mode_weight=0)}"
            )
        has = head.active.sum(1).tolist()
        if len(has) != self.num_classes or any(own < needed for own, needed in zip(has, self.per_class, strict=True)):
            raise UserError(
                f"the head has {has} prototypes, and the classes have {self.per_class} modes; write "
                f"{setting(prototypes_per_class=self.per_class)}"
            )
        if head.merge_threshold:
            raise UserError(
                "a head whose prototypes merge cannot keep one for each mode; "
                f"write {setting({'head.merge_threshold': None})}"
            )
        return head
