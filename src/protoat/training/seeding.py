"""The random state of each moment of a run is a function of where the run is, so none of it needs to be stored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["derived_seed", "private_random_state", "seed_global"]


def derived_seed(*parts: int | str) -> int:
    """A 63-bit seed for these coordinates; neighbouring coordinates give unrelated seeds.

    >>> derived_seed("update", 0, 1) == derived_seed("update", 0, 1) != derived_seed("update", 1, 0)
    True
    """
    text = ",".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seed_global(device: torch.device, *parts: int | str) -> None:
    """Sets torch's global random state, on the CPU and on `device`, from these coordinates."""
    seed = derived_seed(*parts)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextmanager
def private_random_state(device: torch.device) -> Iterator[None]:
    """Gives the caller's global random state back at the end."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
