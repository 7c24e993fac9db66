"""Chooses the precision of a run's attacks by a timed step; a resumed run keeps its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from accelerate import Accelerator
from torch import Tensor

from protoat.arguments import check_choice
from protoat.attacks import Attack
from protoat.attacks.precision import AttackPrecision
from protoat.attacks.timed_precision import timed_precision
from protoat.training import checkpoint
from protoat.training.learner import Learner


def chosen_precision(
    choice: AttackPrecision | Literal["auto"], folder: Path | None, learner: Learner, images: Tensor, labels: Tensor
) -> AttackPrecision:
    """The precision of a run's attacks.

    Args:
        choice: what the run asks for; ``"auto"`` is the one it began with, else the faster one; ``"fp32"`` where
            the method has no attack that bfloat16 is for.
        folder: of the run, if it has one.
        learner: holds the network that is timed.
        images, labels: a first batch.

    Raises:
        ValueError: an unknown choice.
    """
    check_choice(Literal["fp32", "bf16", "auto"], attack_precision=choice)
    if choice != "auto":
        return choice
    earlier = None if folder is None else _begun_with(folder, learner.accelerator)
    if earlier is not None:
        return earlier
    attack = getattr(learner.objective.method, "attack", None)
    if not isinstance(attack, Attack) or attack.gradient_steps is None:
        return "fp32"
    device = learner.accelerator.device
    return timed_precision(learner.unwrapped, images.to(device), labels.to(device), learner.objective.method.threat)[0]


def _begun_with(folder: Path, accelerator: Accelerator) -> AttackPrecision | None:
    """What an interrupted run in `folder` attacks in; None where there is none."""
    found = checkpoint.load_latest(folder / "checkpoints", accelerator)
    run: Any = {} if found is None else found.state.get("run")
    identity = run.get("identity") if isinstance(run, dict) else None
    told = identity.get("attack_precision") if isinstance(identity, dict) else None
    if told not in ("fp32", "bf16"):
        return None if found is None else "fp32"  # a run of before there was a choice
    return "bf16" if told == "bf16" else "fp32"
