"""Checks before a run is written: the network is one, and sizes fit into memory."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from protoat.errors import UserError
from protoat.functional.preserve import preserve_modes
from protoat.types import as_output

_TOO_MUCH = re.compile("allocate|out of memory|overflow|Storage size", re.IGNORECASE)


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
        raise UserError(f"{what} is too large for this machine ({_first_line(error)}); choose it smaller") from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _check_memory(needed: int, what: str) -> None:
    there = _memory()
    if there is not None and needed > there:
        raise UserError(f"{what} {needed / 2**30:.4g} GiB, and this machine has {there / 2**30:.4g} GiB; choose less")


def _memory() -> int | None:
    """Of the machine, in bytes; None where that cannot be told."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
