"""Builds the network of a recipe or of a command; checks that it is one, and that sizes fit into memory."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from protoat.errors import UserError
from protoat.functional.forward import output_of
from protoat.functional.preserve import preserve_modes
from protoat.models import MultiPrototypeHead
from protoat.models.embedding import with_embedding
from protoat.models.head import classifier_head, head_sizes, with_head
from protoat.recipes.recipe import Recipe
from protoat.spelling import setting, together
from protoat.types import as_output

_TOO_MUCH = re.compile("allocate|out of memory|overflow|Storage size", re.IGNORECASE)
_COLLECTING = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def build_network(
    recipe: Recipe, num_classes: int, shape: tuple[int, int, int], prototypes_per_class: list[int] | None = None
) -> nn.Module:
    """The recipe's network for images of `shape` (C, H, W).

    Args:
        recipe: what chooses it.
        num_classes: logits of an image.
        shape: (C, H, W) of the images.
        prototypes_per_class: what modes need of a head; the recipe's own comes first.

    Raises:
        ValueError: images that are no squares, or what the user's own code raises.
    """
    channels, height, width = shape
    if height != width:
        raise UserError(
            f"images are {height}x{width}; models expect squares; "
            f"write {setting({'data.image_size': min(height, width)})}"
        )
    try:
        model = call_builder("the model", recipe.model, num_classes, channels, height)
        head: Callable[[int, int], MultiPrototypeHead] | None = recipe.head
        if head is None and prototypes_per_class is not None:
            head = partial(MultiPrototypeHead, prototypes_per_class=prototypes_per_class)
        if recipe.regularizer is not None or prototypes_per_class is not None:
            model = _with_embedding(model, shape)
        return model if head is None else with_head(model, head(*head_sizes(classifier_head(model))))
    except UserError:
        raise
    except Exception as error:
        if not recipe.trust:
            raise
        raise UserError(f"the model cannot be built, it raised {type(error).__name__}: {error}") from error


def _with_embedding(model: Any, shape: tuple[int, int, int]) -> Any:
    """A network that returns logits only, wrapped so that its embedding comes too; any other as it is.

    Raises:
        ValueError: no layer of it is its embedding.
    """
    example = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    try:
        with preserve_modes(model), torch.random.fork_rng(devices=[]), torch.no_grad():
            found = output_of(model.eval(), example)
            alone = found.logits.dim() == 2 and not found.embedding.shape[1]
    except Exception:  # no network for such images, as those say who look at it next
        return model
    try:
        return with_embedding(model, example=example) if alone else model
    except UserError as error:
        raise UserError(
            f"the model {type(model).__name__} returns logits only, and its embedding is needed: {error}; write "
            f"{together(regularizer=None, modes=None)}, or name a function that wraps it: "
            "return protoat.with_embedding(network, layer=...)"
        ) from error


def call_builder(name: str, builder: Callable[..., Any], num_classes: int, in_channels: int, image_size: int) -> Any:
    """What a class or function makes of the facts that it has arguments for.

    It is told them by name; one whose three arguments have other names is told them in this order.

    Args:
        name: of the builder, for messages.
        builder: of a network.
        num_classes, in_channels, image_size: the facts.

    Raises:
        ValueError: it needs another argument, or does not say which it takes.

    >>> call_builder("x", lambda in_channels, num_classes: (in_channels, num_classes), 10, 3, 32)
    (3, 10)
    >>> call_builder("x", lambda n, c, size: (n, c, size), 10, 3, 32)
    (10, 3, 32)
    """
    facts = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
    given = builder.keywords if isinstance(builder, partial) else {}
    try:
        parameters = list(inspect.signature(_target(builder)).parameters.values())
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} does not say which arguments it takes: {error}") from error
    needed = [p for p in parameters if p.default is p.empty and p.kind not in _COLLECTING and p.name not in given]
    unknown = [p.name for p in needed if p.name not in facts or p.kind is p.POSITIONAL_ONLY]
    if len(unknown) == len(needed) == len(facts) and not any(
        p.name in facts or p.kind is p.KEYWORD_ONLY for p in needed
    ):
        return builder(*facts.values())
    if unknown:
        raise UserError(
            f"{name} needs {', '.join(unknown)}, and a builder is told {', '.join(facts)} only, by name; give "
            "other arguments defaults, or write a function that fills them in"
        )
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):  # it may hand them on
        facts = {p.name: facts[p.name] for p in parameters if p.name in facts}
    while True:
        try:
            return builder(**facts)
        except TypeError as error:  # one that hands on ``**kwargs`` is told less where what it calls takes less
            unwanted = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            if unwanted is None or unwanted[1] not in facts:
                raise
            facts = {key: value for key, value in facts.items() if key != unwanted[1]}


def _target(builder: Callable[..., Any]) -> Callable[..., Any]:
    """The class that a recipe's partial builds."""
    if not isinstance(builder, partial):
        return builder
    return next((held for held in reversed(builder.args) if inspect.isclass(held)), builder.func)


def check_network(model: object, num_classes: int, shape: tuple[int, int, int]) -> None:
    """Refuses what does not turn images into logits; the mode of the model and all random states stay as they are.

    Args:
        model: what ``--model`` has built.
        num_classes: logits of an image that are expected.
        shape: (C, H, W) of the images.

    Raises:
        ValueError: it is no module, raises, or returns something else.
    """
    name = f"--model {type(model).__name__}"
    if not isinstance(model, nn.Module):
        raise UserError(f"{name} is what the function built, expected a torch.nn.Module")
    try:
        with preserve_modes(model), torch.random.fork_rng(devices=[]), torch.no_grad():
            found = tuple(as_output(model.eval()(torch.zeros(1, *shape))).logits.shape)
    except Exception as error:
        raise UserError(f"{name} cannot take images of shape {shape}: {type(error).__name__}: {error}") from error
    if found != (1, num_classes):
        raise UserError(f"{name} returns logits of shape {found} for one image, expected (1, {num_classes})")


def check_size(build: Callable[[], object], what: str) -> None:
    """Refuses a module whose parameters are more than the memory of this machine; none of it is taken to see that.

    Args:
        build: makes the module; it is called on torch's device without memory.
        what: names it in the message.

    Raises:
        ValueError: how much it would take.
    """
    with within_memory(what):
        try:
            with torch.random.fork_rng(devices=[]), torch.device("meta"):
                built = build()
        except NotImplementedError:  # it needs values, which that device has not
            return
    needed = sum(value.numel() * value.element_size() for value in getattr(built, "parameters", list)())
    _check_memory(needed, f"the parameters of {what} would take")


def check_batch(batch_size: int, shape: tuple[int, int, int], padding: int) -> None:
    """Refuses a batch that the memory of this machine does not hold.

    Args:
        batch_size: images.
        shape: (C, H, W) of an image.
        padding: that is put around it.

    Raises:
        ValueError: how much it would take.
    """
    channels, height, width = shape
    values = batch_size * channels * (height + 2 * padding) * (width + 2 * padding)
    _check_memory(4 * values, f"a batch of batch_size={batch_size} images with padding={padding} would take")


@contextmanager
def within_memory(what: str) -> Iterator[None]:
    """Says in a line that `what` was too large to be made.

    Raises:
        ValueError: no memory can be had for it.
    """
    try:
        yield
    except (MemoryError, OverflowError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _TOO_MUCH.search(str(error)):
            raise
        first_line = str(error).partition("\n")[0]
        raise UserError(f"{what} is too large for this machine ({first_line}); choose it smaller") from error


def _check_memory(needed: int, what: str) -> None:
    try:
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # the system does not tell
        return
    if needed > there:
        raise UserError(f"{what} {needed / 2**30:.4g} GiB, and this machine has {there / 2**30:.4g} GiB; choose less")
