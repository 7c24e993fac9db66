"""Training: one loop for every method and regularizer."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer

from protoat.attacks import Attack
from protoat.functional.kept import random_state_kept
from protoat.objective import Objective
from protoat.training.averaging import EMA, Averaging
from protoat.training.batches import Batches
from protoat.training.devices import check_accelerator, make_accelerator
from protoat.training.identity import identity
from protoat.training.learner import Learner
from protoat.training.loop import Loop
from protoat.training.memory_format import MemoryFormat, check_memory_format
from protoat.training.metrics_log import MetricsLog
from protoat.training.progress import ProgressBar
from protoat.training.run_state import RunState
from protoat.training.saver import Saver
from protoat.training.schedule import Constant, Schedule
from protoat.training.signals import StopRequest
from protoat.training.validation import Validation, default_attack

__all__ = ["FitResult", "fit"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitResult:
    """What a run came to.

    Attributes:
        epochs: passes over the data that count; one that was taken back does not.
        updates: optimizer steps.
        best_epoch: the epoch (from 1) with the best validation, or None without one.
        stopped: why the run ended early, or None.
        metrics: the lines of ``metrics.jsonl``.
    """

    epochs: int
    updates: int
    best_epoch: int | None
    stopped: str | None
    metrics: list[dict[str, Any]]


def fit(
    model: nn.Module,
    train: Any,
    objective: Objective,
    *,
    epochs: int,
    optimizer: Optimizer,
    schedule: Schedule | None = None,
    validation: Any = None,
    validation_attack: Attack | None = None,
    validate_every: int = 1,
    out: Path | str | None = None,
    resume: bool = True,
    checkpoint_every: int | None = None,
    accelerator: Accelerator | None = None,
    averaging: float | Averaging | None = None,
    clip_norm: float | None = None,
    compile: bool = False,
    memory_format: MemoryFormat = None,
    seed: int = 0,
    progress: bool | None = None,
    tensorboard: bool = True,
) -> FitResult:
    """Trains `model` in place, and resumes exactly where an interrupted run was.

    All randomness of a run is a function of `seed` and of where the run is: the global random state of torch is set
    anew for each batch, and the caller's is given back at the end. So a run killed at any moment and started again
    ends bit for bit (on the CPU) where it would have ended.

    Args:
        model: images -> `Output` or logits; moved to the accelerator's device, not wrapped by the caller.
        train: `ImageLoader`, or any sized iterable of ``(x in [0, 1], y)``. With several processes a torch
            `DataLoader` is shared out by Accelerate and other loaders serve each process its own part. To resume in
            the middle of an epoch, a `DataLoader` must draw from torch's global random state.
        objective: method and regularizer.
        epochs: passes over the data, at least 1; each batch counts once, however often it is replayed.
        optimizer: over every trainable parameter of model and objective, see `parameter_groups`.
        schedule: learning rate over the updates; default `Constant`. Every group keeps its ratio to the first.
        validation: `ImageData` or an iterable of batches, held out of the training images.
        validation_attack: default PGD-10 under the method's threat model; clean accuracy only for `Standard`.
        validate_every: epochs between validations; the last epoch always has one.
        out: folder for ``metrics.jsonl``, ``checkpoints/``, ``best.*``, ``last.*`` and ``tensorboard/``; None stores
            nothing.
        resume: go on from the newest intact checkpoint in `out`; False refuses a folder that has some.
        checkpoint_every: also write checkpoints inside an epoch, each time this many updates have passed.
        accelerator: device, processes, mixed precision, trackers; default `make_accelerator()`, whose order of a
            `DataLoader` several processes can resume.
        averaging: decay in (0, 1) of an exponential moving average of weights and buffers, or a rule: `EMA`, `SWA`,
            `FAWA`. The average is what is validated and exported, and what the model holds at the end.
        clip_norm: scale the gradient of all that learns (model, method and prototypes) down to this L2 norm at each
            step where it is longer; None leaves it as it is.
        compile: run the model through ``torch.compile``.
        memory_format: ``"channels_last"`` lays model and images out with channels last; on a CPU not where it could
            crash, see `protoat.training.memory_format`.
        seed: of everything random in training.
        progress: show a progress bar; None shows it on a terminal only.
        tensorboard: write TensorBoard files into `out` when it is installed.

    Raises:
        ValueError: settings that do not fit together, a parameter the optimizer lacks, checkpoints of another run (any
            setting of method, regularizer, optimizer or validation attack that differs is named) or architecture.
        NonFiniteLossError: a term of the loss is no number; the last good checkpoint stays.
        CheckpointError: every checkpoint in `out` is damaged.
        DiskError: the disk is full; the last checkpoint stays.
        Interrupted: SIGINT or SIGTERM arrived; the step was finished and saved.

    Source: checkpoint choice by robust accuracy on held-out images is Rice, Wong & Kolter, ICML 2020. Deviation: with
    several processes each keeps its own batch-norm statistics within an epoch, and their mean after it.

    >>> import torch
    >>> from protoat.methods import PGDAT
    >>> from protoat.types import Linf
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> objective = Objective(PGDAT(Linf(0.1), steps=2))
    >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    >>> batches = [(torch.rand(8, 1, 2, 2), torch.arange(8) % 2)] * 3
    >>> fit(net, batches, objective, epochs=2, optimizer=optimizer).updates
    6
    """
    _check(epochs, validate_every, checkpoint_every, averaging, clip_norm=clip_norm, out=out)
    rule = averaging if averaging is None or isinstance(averaging, Averaging) else EMA(decay=averaging)
    if rule is not None and rule.needs_validation and validation is None:
        raise ValueError(f"{type(rule).__name__} decides by held-out images; pass validation")
    folder, schedule = None if out is None else Path(out), schedule or Constant()
    accelerator = accelerator or make_accelerator(seed=seed)
    check_accelerator(accelerator)
    check_memory_format(memory_format, model, accelerator.device)
    if accelerator.is_main_process:
        _warn_of_two_decays(objective, optimizer)
    with ExitStack() as stack:
        stack.enter_context(random_state_kept(accelerator.device))
        batches = Batches(train, accelerator, seed=seed, memory_format=memory_format)
        learner = stack.enter_context(
            Learner(
                model,
                objective,
                optimizer,
                accelerator,
                averaging=rule,
                clip_norm=clip_norm,
                compile=compile,
                memory_format=memory_format,
            )
        )
        watch = _validation(validation, validation_attack, objective, accelerator, seed)
        attack = None if watch is None else watch.attack
        state = RunState(identity(learner, schedule, rule, attack, epochs=epochs, batches=len(batches), seed=seed))
        saver = Saver(folder, learner, state)
        saver.begin(resume=resume)
        done = state.epoch * len(batches) + state.batch
        show = progress if accelerator.is_main_process else False
        Loop(
            learner=learner,
            batches=batches,
            schedule=schedule,
            validation=watch,
            state=state,
            saver=saver,
            log=stack.enter_context(MetricsLog(folder, state.history, accelerator, tensorboard=tensorboard)),
            bar=stack.enter_context(ProgressBar(epochs * len(batches), done, show=show)),
            stop=stack.enter_context(StopRequest()),
            epochs=epochs,
            validate_every=validate_every,
            checkpoint_every=checkpoint_every,
            seed=seed,
        ).run()
    best = None if state.best is None else state.best["epoch"]
    return FitResult(state.epoch, state.update, best, state.stopped, state.history)


def _warn_of_two_decays(objective: Objective, optimizer: Optimizer) -> None:
    decay = max(float(group.get("weight_decay", 0)) for group in optimizer.param_groups)
    if objective.norm == "weights" and objective.norm_weight and decay:
        logger.warning(
            "kernels decay twice: by 2 * norm_weight = %g, as norm='weights' says, and by the optimizer's "
            "weight_decay=%g; set one of them to 0",
            2 * objective.norm_weight,
            decay,
        )


def _validation(
    data: Any, attack: Attack | None, objective: Objective, accelerator: Accelerator, seed: int
) -> Validation | None:
    if data is None:
        return None
    return Validation(
        data,
        default_attack(objective) if attack is None else attack,
        device=accelerator.device,
        seed=seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
    )


def _check(
    epochs: int,
    validate_every: int,
    checkpoint_every: int | None,
    averaging: float | Averaging | None,
    *,
    clip_norm: float | None,
    out: Path | str | None,
) -> None:
    if epochs < 1 or validate_every < 1:
        raise ValueError(f"epochs={epochs} and validate_every={validate_every} must be at least 1")
    if checkpoint_every is not None and checkpoint_every < 1:
        raise ValueError(f"checkpoint_every={checkpoint_every} must be at least 1; leave it out for epochs only")
    if checkpoint_every is not None and out is None:
        raise ValueError(f"checkpoint_every={checkpoint_every} needs a folder to write to; pass out")
    if isinstance(averaging, float | int) and not 0 < averaging < 1:
        raise ValueError(f"averaging={averaging:g} is outside (0, 1); 0.999 is usual")
    if clip_norm is not None and clip_norm <= 0:
        raise ValueError(f"clip_norm={clip_norm:g} must be positive; leave it out to clip nothing")
