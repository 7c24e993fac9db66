"""Classes and probabilities that a model gives to pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor, nn

from protoat.arguments import check_whole
from protoat.data import Preprocess
from protoat.errors import UserError
from protoat.functional.cosines import assign
from protoat.functional.forward import output_of, predicted
from protoat.models.head import multi_prototype_head
from protoat.regularizers import Regularizer, SoftTriple


class Prediction(NamedTuple):
    """What a model says of one image.

    Attributes:
        label: number of the class, from 0.
        class_name: its name.
        probability: of the class, by a softmax over the logits.
        prototype: the nearest prototype of that class: the name of the mode that owns it, else ``"class, place"``; None
            where there are none.
    """

    label: int
    class_name: str
    probability: float
    prototype: str | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Predictions(Sequence[Prediction]):
    """Predictions for several images: a sequence of `Prediction`; ``print`` shows a line for each.

    Attributes:
        class_names: C names.
        logits: (N, C).
        places: (N,) int64, place of the nearest prototype within the predicted class; None where there are none.
        prototype_modes: for each class the modes that own its first prototypes; None where prototypes are no modes'.

    >>> print(Predictions(("cat", "dog"), torch.tensor([[2.0, 0.0], [0.0, 5.0]])))
    cat  0.881
    dog  0.993
    """

    class_names: tuple[str, ...]
    logits: Tensor
    places: Tensor | None = None
    prototype_modes: Sequence[Sequence[str]] | None = None

    @property
    def labels(self) -> Tensor:
        """(N,) int64, the class of the largest logit."""
        return self.logits.argmax(1)

    @property
    def probabilities(self) -> Tensor:
        """(N, C), summing to 1."""
        return self.logits.softmax(1)

    def __len__(self) -> int:
        return len(self.logits)

    @overload
    def __getitem__(self, index: int) -> Prediction: ...
    @overload
    def __getitem__(self, index: slice) -> Predictions: ...
    def __getitem__(self, index: int | slice) -> Prediction | Predictions:
        if isinstance(index, slice):
            places = None if self.places is None else self.places[index]
            return replace(self, logits=self.logits[index], places=places)
        label = int(self.labels[index])
        probability = float(self.probabilities[index, label])
        return Prediction(label, self.class_names[label], probability, self._prototype(label, index))

    def _prototype(self, label: int, index: int) -> str | None:
        if self.places is None:
            return None
        place, modes = int(self.places[index]), self.prototype_modes[label] if self.prototype_modes else ()
        return modes[place] if place < len(modes) else f"{self.class_names[label]}, {place}"

    def __repr__(self) -> str:
        return f"Predictions({len(self)} images, {len(self.class_names)} classes)"

    def __str__(self) -> str:
        width = max((len(each.class_name) for each in self), default=0)
        return "\n".join(f"{each.class_name:<{width}}  {each.probability:.3f}" for each in self)

    def to_json(self) -> list[dict[str, Any]]:
        """For each image what `Prediction` holds, and the probability of every class by name."""
        every = self.probabilities.tolist()
        return [
            {**each._asdict(), "probabilities": dict(zip(self.class_names, row, strict=True))}
            for each, row in zip(self, every, strict=True)
        ]


@torch.no_grad()
def predict(
    model: Callable[[Tensor], Any],
    images: Any,
    *,
    preprocess: Preprocess,
    class_names: Sequence[str],
    regularizer: Regularizer | None = None,
    prototype_modes: Sequence[Sequence[str]] | None = None,
    batch_size: int = 256,
    advance: Callable[[int], None] | None = None,
) -> Predictions:
    """Classes and probabilities of pictures.

    Args:
        model: images in [0, 1] -> `Output` or logits; a module is used in the mode it is in.
        images: one or several, see `Preprocess`.
        preprocess: from pictures to what the model takes.
        class_names: C names.
        regularizer: `SoftTriple`, whose nearest prototypes are then named; those of a `MultiPrototypeHead` come first.
        prototype_modes: see `Predictions`.
        batch_size: images at once.
        advance: called with the number of images after each batch.

    Raises:
        ValueError: an image that cannot be used, see `Preprocess`; logits that are no numbers or not of C classes.
    """
    check_whole(batch_size=batch_size)
    device = next((value.device for value in model.parameters()), None) if isinstance(model, nn.Module) else None
    several = images if isinstance(images, list | tuple | Tensor) else preprocess(images)
    if isinstance(several, Tensor) and several.dim() == 3:
        several = several[None]
    head = multi_prototype_head(model) if isinstance(model, nn.Module) else None
    logits, places = [torch.zeros(0, len(class_names))], list[Tensor]()
    for start in range(0, len(several), batch_size):
        batch = preprocess(several[start : start + batch_size])
        found = output_of(model, batch.to(device))
        _check(found.logits, len(class_names), start)
        logits.append(found.logits.float().cpu())
        labels = found.logits.argmax(1)
        if head is not None:
            of_class = head.sub_logits(found.embedding)[torch.arange(len(labels)), labels]
            places.append(of_class.argmax(1).cpu())
        elif isinstance(regularizer, SoftTriple):
            embedding = regularizer.projected(found.embedding)
            places.append(assign(embedding, labels, regularizer.prototypes, regularizer.active).cpu())
        if advance is not None:
            advance(len(batch))
    return Predictions(tuple(class_names), torch.cat(logits), torch.cat(places) if places else None, prototype_modes)


def _check(logits: Tensor, classes: int, start: int) -> None:
    if logits.shape[1] != classes:
        raise UserError(f"the model gives {logits.shape[1]} logits, and there are {classes} class names")
    if bool((none := predicted(logits) < 0).any()):
        raise UserError(f"the model's logits for image {start + int(none.int().argmax())} are no numbers")
