"""Examines a model before it is measured: its device, its outputs, and which attacks can be run on it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from protoat.attacks import Attack, AutoAttack, FastEnsemble
from protoat.attacks.attacked_model import check_logits
from protoat.attacks.examination import Examination, Finding, examine
from protoat.attacks.mode import attacking
from protoat.data import ImageData
from protoat.data.given import as_image_data
from protoat.errors import UserError
from protoat.evaluation.micro_batches import MicroBatched
from protoat.evaluation.order import fair_order
from protoat.functional.forward import as_module, predicted
from protoat.functional.hidden import hidden_modules, hidden_parts_in_eval
from protoat.functional.precision import float_types
from protoat.functional.preserve import preserve_random_state


@contextmanager
def on_device(model: Any, device: torch.device | str | None) -> Iterator[tuple[MicroBatched, torch.device]]:
    """The model ready to be measured, and where; it is back where it was at the end, also on errors."""
    network = as_module(model)
    first = next(itertools.chain(network.parameters(), network.buffers()), None)
    before = torch.device("cpu") if first is None else first.device
    try:
        where = before if device is None else torch.device(device)
    except RuntimeError as error:
        raise UserError(f"device={device!r} is unknown; write 'cpu', 'cuda' or 'cuda:1'") from error
    try:
        yield MicroBatched(network.to(where) if where != before else network), where
    finally:
        if where != before:
            network.to(before)


def prepared(
    network: MicroBatched, data: Any, modes: Any, device: torch.device
) -> tuple[ImageData, Tensor, Examination]:
    """Test images in any form, see `protoat.data.given.read_images`, and what a look at the model with them shows.

    Returns:
        The images, with as many classes as the model has; the order in which they are measured; and `examine_images`.

    Raises:
        TypeError, ValueError: of another form, or no images; see `examine_images`.
    """
    found: list[Examination] = []

    def classes(x: Tensor) -> int:
        found.append(_examined(network, x.to(device)))
        return found[0].output.logits.shape[1]

    images = as_image_data(data, modes=modes, dtypes=float_types(network), classes=classes)
    if not len(images):
        raise UserError("the data holds no images")
    order = fair_order(images)
    return images, order, found[0] if found else examine_images(network, images, order[:4], device)


def applicable(
    attacks: Mapping[str, Attack | None], data: ImageData, found: Examination
) -> tuple[dict[str, Attack | None], list[Finding]]:
    """The attacks that can be run on a model, and what is to be said of the others.

    Raises:
        ValueError: one cannot be run on such images or so many classes.
    """
    blocked = [] if found.differentiable else [n for n, a in attacks.items() if a is not None and a.follows_gradients]
    possible = {name: attack for name, attack in attacks.items() if name not in blocked}
    for name, attack in possible.items():
        if isinstance(attack, AutoAttack | FastEnsemble):
            attack.num_classes = data.num_classes  # says which parts it has, also where all outcomes are saved
        if attack is not None:
            try:
                attack.check((len(data), *data.shape), found.output)
            except ValueError as error:
                raise UserError(f"attack {name!r}: {error}") from error
    if not blocked:
        return possible, []
    text = f"{', '.join(blocked)} follow gradients, of which the model passes none to its images: not applicable"
    return possible, [Finding("not-applicable", "error", text)]


def check_batch_norm(attack: Attack | None, name: str) -> None:
    """Refuses an attack that would move the running statistics of the model it measures, or of its surrogate.

    Raises:
        ValueError: its batch norm is in mode ``"train"``.
    """
    if attack is not None and attack.bn == "train":
        raise UserError(
            f"attack {name!r} has batch norm in mode 'train', which moves the running statistics of the model and so "
            "changes every number after it; write bn='train_frozen'"
        )


def examine_images(network: MicroBatched, data: ImageData, rows: Tensor, device: torch.device) -> Examination:
    """Examines a model before its measurement, see `examine`.

    Raises:
        ValueError: it cannot take the images, returns no logits of the data's classes, or none of them is finite.
    """
    return _examined(network, data.pixels(rows, device), data.num_classes)


def _examined(network: MicroBatched, x: Tensor, classes: int | None = None) -> Examination:
    """`examine_images` with these images."""
    try:
        found = network.retrying(lambda: examine(network, x, num_classes=classes), len(x))
        said = bool((predicted(found.output.logits) >= 0).any())
    except Exception as error:
        # In words of one image, where that is enough to see it.
        said = bool((predicted(_of_one_image(network, x[:1], classes)) >= 0).all())
        if said or not isinstance(error, ValueError):
            raise
    if not said:
        raise UserError("the model's logits are not finite (NaN or infinite), so no class is its prediction")
    return found


def _of_one_image(network: MicroBatched, x: Tensor, classes: int | None = None) -> Tensor:
    """The model's logits of one image, (1, C)."""
    try:
        hidden = hidden_parts_in_eval(hidden_modules(network))
        with attacking(network), hidden, torch.no_grad(), preserve_random_state(x.device):
            logits = network(x).logits
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"the model cannot take an image of shape {tuple(x.shape)}: {reason}") from error
    check_logits(logits, 1, classes)
    return logits
