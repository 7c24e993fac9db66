"""Seeds every update from the run's seed, so that no random state is stored."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch

from protoat.functional.preserve import set_random_state


def derived_seed(*parts: int | str) -> int:
    """A 63-bit seed for these coordinates; neighbouring coordinates give unrelated seeds.

    >>> derived_seed("update", 0, 1) == derived_seed("update", 0, 1) != derived_seed("update", 1, 0)
    True
    """
    text = ",".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def seed_global(device: torch.device, *parts: int | str) -> None:
    """Sets torch's global random state, on the CPU and on `device`, from these coordinates."""
    set_random_state(device, derived_seed(*parts))


def seed_everything(device: torch.device, *parts: int | str) -> None:
    """As `seed_global`, and the global random states of NumPy and ``random``, from which data sets may draw."""
    seed = derived_seed(*parts)
    set_random_state(device, seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
