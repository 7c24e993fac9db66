"""What figures of embeddings need of a run: its model, some of its test images, its prototypes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from protoat.data import ImageData
from protoat.errors import UserError
from protoat.evaluation import fair_order
from protoat.evaluation.embedding import Embedded, embed
from protoat.evaluation.prototype_agreement import assign
from protoat.recipes.parser import nearest
from protoat.regularizers import SoftTriple
from protoat.regularizers.projection import ProxyRegularizer
from protoat.runs.named_attacks import one_attack
from protoat.runs.run import Run
from protoat.runs.subject import Subject
from protoat.training import make_accelerator

__all__ = ["Pictured", "check_classes", "said"]

logger = logging.getLogger(__name__)


def check_classes(names: Sequence[str], data: ImageData) -> None:
    """Refuses names that are no classes.

    Raises:
        ValueError: names the first of these, and the nearest class.
    """
    if unknown := [name for name in names if name not in data.class_names]:
        raise UserError(f"class {unknown[0]!r} is unknown; {nearest(unknown[0], data.class_names)}")


def said(data: ImageData, predicted: Tensor) -> str:
    """The class that a model says, by name; its logits may say none."""
    place = int(predicted)
    return data.class_names[place] if place >= 0 else "no class (its logits are not finite)"


@dataclass(frozen=True)
class Pictured:
    """A run as figures see it: its model, and the first `images` test images of the order in which it is measured.

    Args:
        run: the folder, with weights.
        images: how many test images, a share of each mode; None takes all.
        classes: images of these only; None takes all.

    Raises:
        ValueError: a number below 1, an unknown class, a folder that is no run or has no weights.
        DataNotFoundError: the test images are not there.
    """

    run: Path | str
    images: int | None = None
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.images is not None and self.images < 1:
            raise UserError(f"images={self.images} must be at least 1")

    @cached_property
    def subject(self) -> Subject:
        """Model, data and threat model of the run."""
        found = Run(self.run).subject()
        found.model.to(make_accelerator().device)
        return found

    @cached_property
    def indices(self) -> Tensor:
        """(M,) int64, which test images."""
        data = self.subject.data
        order = fair_order(data)
        if self.classes is not None:
            check_classes(self.classes, data)
            wanted = torch.tensor([data.class_names.index(name) for name in self.classes])
            order = order[torch.isin(data.labels[order], wanted)]
        return order[: self.images]

    @cached_property
    def data(self) -> ImageData:
        """These images, with labels and modes."""
        return self.subject.data.subset(self.indices)

    @cached_property
    def clean(self) -> Embedded:
        """What the model makes of them as they are."""
        logger.info("%s: embedding %d test images", self.run, len(self.indices))
        return embed(self.subject.model, self.subject.data, self.indices)

    def attacked(self, name: str) -> Embedded:
        """What it makes of them under an attack, by its name as for ``protoat evaluate``.

        Raises:
            ValueError: an unknown attack, or a name that stands for none or several.
        """
        attack = one_attack(name, self.subject)
        logger.info("%s: embedding %d test images under %s", self.run, len(self.indices), name)
        return embed(self.subject.model, self.subject.data, self.indices, attack=attack)

    @property
    def metric(self) -> SoftTriple:
        """The prototypes of the run, on the CPU.

        Raises:
            ValueError: it was trained without.
        """
        found = self.subject.regularizer
        if not isinstance(found, SoftTriple):
            raise UserError(f"{self.run} has no prototypes: it was not trained with SoftTriple; name a run that was")
        return found

    def projected(self, embedded: Embedded) -> Tensor:
        """(M, D) embeddings as the prototypes of the run see them, where it has some; else as they are."""
        regularizer = self.subject.regularizer
        if not isinstance(regularizer, ProxyRegularizer):
            return embedded.embedding
        with torch.no_grad():
            return regularizer.projected(embedded.embedding)

    @cached_property
    def places(self) -> Tensor:
        """(M,) int64, the prototype of its own class that each clean image is nearest to."""
        metric = self.metric
        return assign(self.projected(self.clean), self.data.labels, metric.prototypes.detach(), metric.active)
