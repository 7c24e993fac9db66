"""The model, test images and prototypes of a run that figures of embeddings are drawn from."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from protoat.arguments import check_whole
from protoat.attacks import Attack
from protoat.attacks.mode import attacking
from protoat.data import ImageData
from protoat.errors import UserError
from protoat.evaluation import fair_order
from protoat.evaluation.embedding import Embedded, embed
from protoat.evaluation.retrieval import nearest_neighbours
from protoat.functional.cosines import active_cosines
from protoat.functional.forward import device_of, output_of
from protoat.models import with_embedding
from protoat.names import nearest
from protoat.plots.style import labels
from protoat.regularizers import SoftTriple
from protoat.regularizers.projection import ProxyRegularizer
from protoat.runs.claims import called
from protoat.runs.named_attacks import one_attack
from protoat.runs.run import Run
from protoat.runs.subject import Subject
from protoat.threats import ThreatModel
from protoat.training import make_accelerator

logger = logging.getLogger(__name__)


def check_classes(wanted: Sequence[str], data: ImageData) -> None:
    """Refuses names that are no classes.

    Raises:
        ValueError: names the first of these, and the nearest class.
    """
    if unknown := [name for name in wanted if name not in data.class_names]:
        raise UserError(f"class {unknown[0]!r} is unknown; {nearest(unknown[0], data.class_names)}")


def mode_name(data: ImageData, mode: int | Tensor) -> str:
    """A mode in short: within pictures that are sorted into ``class/mode`` without the class.

    >>> data = ImageData(torch.zeros(1, 1, 2, 2), torch.zeros(1).long(), ["cat"], torch.zeros(1).long(), ["cat/tabby"])
    >>> mode_name(data, 0)
    'tabby'
    """
    name, owner = data.mode_names[int(mode)], int(data.mode_class[int(mode)])
    return name.removeprefix(f"{data.class_names[owner]}/") if owner >= 0 else name


def grouped_by(data: ImageData) -> str:
    """What its modes are called: ``mode``, or ``class`` where none are known beside the classes.

    >>> grouped_by(ImageData(torch.zeros(1, 1, 2, 2), torch.zeros(1).long(), ["cat"]))
    'class'
    """
    return "class" if tuple(data.mode_names) == tuple(data.class_names) else "mode"


def in_words(data: ImageData, place: int) -> str:
    """The class of an image and, where modes are known, its mode.

    >>> in_words(ImageData(torch.zeros(1, 1, 2, 2), torch.zeros(1).long(), ["cat"]), 0)
    'cat'
    """
    own, mode = data.class_names[int(data.labels[place])], data.mode_names[int(data.modes[place])]
    return own if grouped_by(data) == "class" else f"{own}, mode {mode}"


def said(data: ImageData, predicted: Tensor) -> str:
    """The class that a model says, by name; its logits may say none."""
    place = int(predicted)
    return data.class_names[place] if place >= 0 else "no class (its logits are not finite)"


@dataclass(frozen=True)
class Pictured:
    """A run as figures see it: its model, and the first `images` test images of the order in which it is measured.

    What a figure asks for is computed once, so several figures of one `Pictured` embed and attack no image twice.

    Args:
        run: with weights.
        images: how many test images, a share of each mode; None takes all.
        classes: images of these only; None takes all.

    Raises:
        ValueError: a number below 1, an unknown class, a folder that is no run or has no weights.
        DataNotFoundError: the test images are not there.
    """

    run: Run | Path | str
    images: int | None = None
    classes: tuple[str, ...] | None = None
    _attacks: dict[str, Attack] = field(default_factory=dict, init=False, repr=False)
    _attacked: dict[str, Embedded] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.images is not None:
            check_whole(images=self.images)

    @classmethod
    def of(cls, run: Seen, images: int | None = None, *, classes: Sequence[str] | None = None) -> Pictured:
        """The run with these images; one that is a `Pictured` already stays as it is."""
        return run if isinstance(run, Pictured) else cls(run, images, None if classes is None else tuple(classes))

    @cached_property
    def path(self) -> Path:
        """The folder."""
        return self.stored.path

    @property
    def called(self) -> str:
        """What messages call the run: `zoo:digits-2`, or its path."""
        return called(self.path)

    @cached_property
    def stored(self) -> Run:
        """The run."""
        return self.run if isinstance(self.run, Run) else Run(self.run)

    @cached_property
    def name(self) -> str:
        """The folder's own name, as figures show it."""
        return labels([self.path])[0]

    @cached_property
    def subject(self) -> Subject:
        """Model, data and threat model of the run; a network that returns logits only is wrapped (`with_embedding`)."""
        found = self.stored.subject()
        return replace(found, model=_embedding_too(found.model.to(make_accelerator().device), found.data))

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
        logger.info("%s: embedding %d test images", self.called, len(self.indices))
        return embed(self.subject.model, self.subject.data, self.indices)

    def attacked(self, name: str) -> Embedded:
        """What it makes of them under an attack, by its name as for ``protoat evaluate``.

        Raises:
            ValueError: an unknown attack, or a name that stands for none or several.
        """
        if name not in self._attacked:
            attack = self._attack(name)
            logger.info("%s: embedding %d test images under %s", self.called, len(self.indices), name)
            self._attacked[name] = embed(self.subject.model, self.subject.data, self.indices, attack=attack)
        return self._attacked[name]

    def threat(self, name: str) -> ThreatModel:
        """What an attack may do, by its name as for `attacked`; ``pgd10@0.2`` may do more than the run was made for."""
        return self._attack(name).threat

    def _attack(self, name: str) -> Attack:
        if name not in self._attacks:
            self._attacks[name] = one_attack(name, self.subject)
        return self._attacks[name]

    def near_modes(self, embedded: Embedded) -> Tensor:
        """(M,) int64, for each image the mode of the clean image nearest to its embedding, itself left out."""
        own = torch.arange(len(self.data))
        return self.data.modes[nearest_neighbours(embedded.embedding, self.clean.embedding, 1, excluded=own)[:, 0]]

    @property
    def has_modes(self) -> bool:
        """Whether modes are known that are not the classes themselves."""
        data = self.data
        return len({*zip(data.labels.tolist(), data.modes.tolist(), strict=True)}) > len(data.labels.unique())

    @property
    def metric(self) -> SoftTriple:
        """The prototypes of the run, on the CPU.

        Raises:
            ValueError: it was trained without.
        """
        found = self.subject.regularizer
        if not isinstance(found, SoftTriple):
            raise UserError(f"{self.called} has no prototypes: it was not trained with SoftTriple; name a run that was")
        return found

    def projected(self, embedded: Embedded) -> Tensor:
        """(M, D) embeddings as the prototypes of the run see them, where it has some; else as they are."""
        regularizer = self.subject.regularizer
        if not isinstance(regularizer, ProxyRegularizer):
            return embedded.embedding
        with torch.no_grad():
            return regularizer.projected(embedded.embedding)

    def nearness(self, embedded: Embedded) -> Tensor:
        """Cosine of each embedding to each prototype, (M, C, K); -inf to those that are not in use."""
        metric = self.metric
        return active_cosines(self.projected(embedded), metric.prototypes.detach(), metric.active)

    @cached_property
    def places(self) -> Tensor:
        """(M,) int64, the prototype of its own class that each clean image is nearest to."""
        labels = self.data.labels
        return self.nearness(self.clean)[torch.arange(len(labels)), labels].argmax(1)


def _embedding_too(model: nn.Module, data: ImageData) -> nn.Module:
    """The model, such that it returns an embedding, if one can be found in it."""
    x = data.pixels(slice(2)).to(device_of(model))
    with attacking(model), torch.no_grad():
        if output_of(model, x).embedding.shape[1]:
            return model
        wrapped = with_embedding(model).eval()
        try:
            wrapped(x)
        except UserError:
            return model
    return wrapped


Seen = Pictured | Run | Path | str  # what a figure is drawn from
