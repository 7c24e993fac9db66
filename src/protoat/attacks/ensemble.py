"""The base class of attacks that are made of attacks, chosen by the number of classes."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from protoat.arguments import check_whole
from protoat.attacks.active import Run
from protoat.attacks.base import Attack
from protoat.errors import UserError
from protoat.threats import ThreatModel
from protoat.types import Output


class Ensemble(Attack):
    """Attacks one after the other. A subclass writes `_parts` and `run`.

    Args:
        threat: norm and radius.
        batch_size: images in one forward.
        seed: repeats a call when no generator is passed.

    Attributes:
        num_classes: of the model attacked last, None before the first call; `parameters` describes that run.

    Raises:
        ValueError: an empty batch size; a model with fewer than two logits.
    """

    can_target: ClassVar[bool] = False

    def __init__(self, threat: ThreatModel, *, batch_size: int = 256, seed: int = 0) -> None:
        super().__init__(threat, seed=seed)
        check_whole(batch_size=batch_size)
        self.batch_size = batch_size
        self.num_classes: int | None = None

    def parts(self, num_classes: int) -> dict[str, Attack]:
        """The attacks for a number of classes, in order, by name."""
        if num_classes < 2:
            raise UserError(f"{type(self).__name__} needs at least two classes, the model has {num_classes}")
        return self._parts(num_classes)

    @abstractmethod
    def _parts(self, num_classes: int) -> dict[str, Attack]:
        """The same for two classes or more."""

    def check(self, images: tuple[int, ...], output: Output) -> None:
        for part in self.parts(output.logits.shape[1]).values():
            part.check(images, output)

    def parameters(self) -> dict[str, Any]:
        """Every parameter of every part for the model attacked last; before the first call, no parts."""
        values = {key: value for key, value in super().parameters().items() if key not in ("bn", "alarms")}
        if self.num_classes is not None:
            values["parts"] = {name: part.parameters() for name, part in self.parts(self.num_classes).items()}
        return values


def run_of(part: Attack) -> Run:
    """A part as `worst_case` runs it."""
    return lambda problem, _: part.run(problem)
