"""Contexts that leave what is the caller's as they found it, also on errors."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

__all__ = ["host_random_state_kept", "modes_kept", "random_state_kept", "set_random_state"]


def set_random_state(device: torch.device, seed: int) -> None:
    """Sets torch's global random state, on the CPU and on `device`; no other device is touched."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def random_state_kept(device: torch.device, seed: int | None = None) -> Iterator[None]:
    """Gives torch's global random state, on the CPU and on `device`, back at the end.

    Args:
        device: of the tensors that are worked on.
        seed: what random numbers are drawn from inside; None goes on from the caller's state.

    >>> before = torch.get_rng_state()
    >>> with random_state_kept(torch.device("cpu"), seed=1):
    ...     _ = torch.rand(3)
    >>> torch.equal(torch.get_rng_state(), before)
    True
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        if seed is not None:
            set_random_state(device, seed)
        yield


@contextmanager
def host_random_state_kept(device: torch.device) -> Iterator[None]:
    """Gives the global random states of torch, NumPy and ``random`` back at the end."""
    ours, theirs = random.getstate(), np.random.get_state()
    try:
        with random_state_kept(device):
            yield
    finally:
        random.setstate(ours)
        np.random.set_state(theirs)


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Gives every module of `model` back the mode it is in, training or not.

    >>> net = nn.Sequential(nn.Dropout())
    >>> with modes_kept(net):
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
