"""Configures Accelerate for training."""

from __future__ import annotations

import os
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration

from protoat.arguments import check_seed
from protoat.errors import UserError
from protoat.functional.distributed import processes

Precision = Literal["no", "bf16", "fp16"]


def make_accelerator(*, precision: Precision | None = None, seed: int = 0) -> Accelerator:
    """An `Accelerator` for `fit`; also joins several processes where there is no GPU.

    Args:
        precision: forwards in bfloat16 or float16 (``"no"``: float32); None is what ``accelerate launch`` was told.
        seed: of the order in which a torch `DataLoader` is read in a run of several processes.

    Raises:
        ValueError: this process already uses Accelerate with another precision.

    >>> make_accelerator().num_processes
    1
    """
    check_seed(seed=seed)
    # Without a GPU Accelerate takes the processes for unrelated ones unless it is told that the CPU is meant.
    only_cpu = not torch.accelerator.is_available() and int(os.environ.get("WORLD_SIZE", "1")) > 1
    return Accelerator(
        cpu=only_cpu,
        mixed_precision=precision,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=seed),
    )


def check_processes(accelerator: Accelerator) -> None:
    """Accelerate and torch must know the same processes.

    Raises:
        ValueError: they do not, so that every process would train on its own.
    """
    group = processes()
    if group != accelerator.num_processes:
        raise UserError(
            f"torch's process group has {group} processes and the accelerator {accelerator.num_processes}; "
            "build it with protoat.training.make_accelerator()"
        )


def check_accelerator(accelerator: Accelerator) -> None:
    """Training needs what `check_processes` asks for, and one optimizer step for each backward.

    Raises:
        ValueError: another set of processes, or gradients that are to be accumulated.
    """
    check_processes(accelerator)
    if accelerator.gradient_accumulation_steps != 1:
        raise UserError(
            f"the accelerator has gradient_accumulation_steps={accelerator.gradient_accumulation_steps}, and every "
            "backward here is followed by a step; write 1 and use a larger batch or more processes"
        )
