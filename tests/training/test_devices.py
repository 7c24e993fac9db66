"""Accelerate set up for training here."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from accelerate import Accelerator

from protoat.training import make_accelerator


def test_precision_and_processes() -> None:
    accelerator = make_accelerator(precision="bf16")
    assert accelerator.mixed_precision == "bf16" and accelerator.num_processes == 1
    with pytest.raises(ValueError, match="already been initialized"):
        make_accelerator(precision="no")


def test_processes_that_accelerate_does_not_know_are_noticed(
    small: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each of them would train on its own, and all would write to the same folder."""
    accelerator = Accelerator()
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(ValueError, match=r"process group has 2 processes and the accelerator 1; .*make_accelerator"):
        small.train("pgd", None, accelerator=accelerator)


def test_accumulation_of_gradients_is_refused(small: ModuleType) -> None:
    """It would divide each gradient and add none."""
    accelerator = Accelerator(gradient_accumulation_steps=4)
    with pytest.raises(ValueError, match="gradient_accumulation_steps=4, and every backward here is followed by"):
        small.train("pgd", None, accelerator=accelerator)
