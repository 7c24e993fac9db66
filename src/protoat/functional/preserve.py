"""Contexts that preserve the random state and the modes of modules."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


def set_random_state(device: torch.device, seed: int) -> None:
    """Sets torch's global random state, on the CPU and on `device`; no other device is touched."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def preserve_random_state(device: torch.device, seed: int | None = None) -> Iterator[None]:
    """Gives torch's global random state, on the CPU and on `device`, back at the end.

    Args:
        device: of the tensors that are worked on.
        seed: what random numbers are drawn from inside; None goes on from the caller's state.

    >>> before = torch.get_rng_state()
    >>> with preserve_random_state(torch.device("cpu"), seed=1):
    ...     _ = torch.rand(3)
    >>> torch.equal(torch.get_rng_state(), before)
    True
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        if seed is not None:
            set_random_state(device, seed)
        yield


@contextmanager
def preserve_host_random_state(device: torch.device) -> Iterator[None]:
    """Gives the global random states of torch, NumPy and ``random`` back at the end."""
    ours, theirs = random.getstate(), np.random.get_state()
    try:
        with preserve_random_state(device):
            yield
    finally:
        random.setstate(ours)
        np.random.set_state(theirs)


@contextmanager
def preserve_modes(model: nn.Module) -> Iterator[None]:
    """Gives every module of `model` back the mode it is in, training or not.

    >>> net = nn.Sequential(nn.Dropout())
    >>> with preserve_modes(net):
    ...     _ = net.eval()
    >>> net.training, net[0].training
    (True, True)
    """
    modes = [(module, module.training) for module in model.modules() if hasattr(module, "training")]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
