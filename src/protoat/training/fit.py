"""Training: one loop for every method and regularizer."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from protoat.attacks import Attack
from protoat.attacks.precision import AttackPrecision, attacks_in
from protoat.data import ImageLoader
from protoat.functional.compiled import several_backwards
from protoat.functional.precision import float_types
from protoat.functional.preserve import preserve_host_random_state
from protoat.models.memory_format import MemoryFormat, check_memory_format
from protoat.objective import Objective
from protoat.storage.locks import working_on
from protoat.training.averaging import Averaging
from protoat.training.batches import Batches, first_batch
from protoat.training.devices import check_accelerator, make_accelerator
from protoat.training.fit_arguments import (
    Select,
    Settings,
    as_averaging,
    as_schedule,
    check_output,
    check_parts,
    check_single_image,
    warn_of_the_unreached,
    warn_of_two_decays,
)
from protoat.training.learner import Learner
from protoat.training.loop import Loop
from protoat.training.metrics import MetricsLog
from protoat.training.optimizer_state import check_usable
from protoat.training.progress import ProgressBar
from protoat.training.run_state import RunState, chosen_precision, identity
from protoat.training.saver import Kept, Saver
from protoat.training.schedule import Schedule
from protoat.training.signals import StopRequest
from protoat.training.torch_schedule import TorchSchedule
from protoat.training.trackers import Loggers, Trackers, check_loggers
from protoat.training.validation import Validation, default_attack

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
    schedule: Schedule | LRScheduler | None = None,
    validation: Any = None,
    validation_attack: Attack | None = None,
    validate_every: int = 1,
    select: Select = "robust",
    out: Path | str | None = None,
    resume: bool = True,
    checkpoint_every: int | None = None,
    accelerator: Accelerator | None = None,
    averaging: float | Averaging | None = None,
    clip_norm: float | None = None,
    compile: bool = False,
    memory_format: MemoryFormat = None,
    attack_precision: AttackPrecision | Literal["auto"] = "fp32",
    seed: int = 0,
    progress: bool | None = None,
    loggers: Loggers = None,
    config: Mapping[str, Any] | None = None,
) -> FitResult:
    """Trains `model` in place, and resumes exactly where an interrupted run was.

    All randomness of a run is a function of `seed` and of where the run is: the global random state of torch is set
    anew for each batch, as are those of NumPy and ``random`` where a loader of the caller's may draw from them, and the
    caller's are given back at the end. Generators, samplers and loaders with a state of their own are part of each
    checkpoint. So a run killed at any moment and started again ends bit for bit (on the CPU) where it would have ended.

    Each module trains in the mode in which it came, so that ``net.bn1.eval()`` keeps a layer's statistics, and has that
    mode again at the end. A model of which every module came in eval mode is put into train mode as a whole.

    Args:
        model: images -> `Output` or logits; moved to the accelerator's device, not wrapped by the caller.
        train: `ImageLoader`, or any sized iterable of batches: ``(x, y)``, further entries left out, or a mapping with
            ``image`` and ``label`` (or ``images``, ``pixel_values``, ``img``; ``labels``, ``target``), of tensors or
            NumPy arrays; x in [0, 1], or 8-bit, which is divided by 255; y integers of any width. Modes, and a method
            that keeps something of each image, need ``(x, y, index)``, or a key ``index``: the number of each image in
            the data set, or its `Origin` (``ImageLoader(..., origins=True)``), to undo augmentation.
            With several processes a torch `DataLoader` is shared out by Accelerate and other loaders serve each process
            its own part. A loader with ``set_epoch``, or whose sampler has it, is told each epoch. Workers of
            ``persistent_workers`` are begun anew in each epoch, because nothing could store what they draw.
        objective: method and regularizer.
        epochs: passes over the data, at least 1; each batch counts once, however often it is replayed.
        optimizer: over every trainable parameter of model and objective, see `parameter_groups`.
        schedule: learning rate over the updates; default `Constant`. Every group keeps its ratio to the first. Or a
            scheduler of ``torch.optim.lr_scheduler`` over `optimizer`, see `TorchSchedule`.
        validation: images held out of the training images, in any form that `protoat.evaluate` takes; batches as in
            `train`.
        validation_attack: default PGD-10 under the method's threat model; clean accuracy only for `Standard`.
        validate_every: epochs between validations; the last epoch always has one.
        select: which epoch is the best: the one with the highest ``"robust"`` accuracy on held-out images; or with the
            highest robust accuracy in its ``"worst-mode"``, for which `validation` must say the mode of each image, as
            `ImageData` does, where modes are the classes unless finer ones are known. The other breaks ties.
        out: folder for ``metrics.jsonl``, ``checkpoints/``, ``best.*``, ``last.*`` and ``tensorboard/``, in which one
            process works at a time; None stores nothing.
        resume: go on from the newest intact checkpoint in `out`; False refuses a folder that has some.
        checkpoint_every: also write checkpoints inside an epoch, each time this many updates have passed.
        accelerator: device, processes, mixed precision, trackers that have begun; default `make_accelerator()`, whose
            order of a `DataLoader` several processes can resume.
        averaging: decay in (0, 1) of an exponential moving average of weights and buffers, or a rule: `EMA`, `SWA`,
            `FAWA`. The average is what is validated and exported, and what the model holds at the end.
        clip_norm: scale the gradient of all that learns (model, method and prototypes) down to this L2 norm at each
            step where it is longer; None leaves it as it is.
        compile: run the model through ``torch.compile``.
        memory_format: ``"channels_last"`` lays model and images out with channels last; on a CPU not where it could
            crash, see `protoat.models.memory_format`.
        attack_precision: of the passes that attacks make through the network, in training and validation: ``"fp32"``,
            as the network makes them; ``"bf16"``, under autocast, which takes half the time or less on processors and
            accelerators with units for it; ``"auto"``, whichever a timed pass of this very network shows to be faster
            here, which is part of the run: a resumed one goes on as it began. It concerns attacks that use gradients
            alone, see `Attack.gradient_steps`; weights learn in the accelerator's precision, validation judges in
            float32.
        seed: of everything random in training.
        progress: show a progress bar and, where logging does not, a line for each epoch; None shows the bar on a
            terminal only; False shows neither.
        loggers: trackers that are told settings, numbers of each epoch, also by mode and prototype, and at the end the
            files of the run: names, such as ``"tensorboard"`` or ``"wandb"`` (one that is unknown lists all), or
            trackers of Accelerate that have not begun; None writes TensorBoard files into `out` when it is installed. A
            resumed run goes on in the same run of a tracker.
        config: settings for trackers in place of those of `fit`.

    Raises:
        ValueError: settings that do not fit together, a parameter the optimizer lacks, batches of another form, another
            process at work in `out`, checkpoints of another run (any setting of method, regularizer, optimizer or
            validation attack that differs is named) or architecture. All but labels and images of later batches is
            found before training begins. An error before the first step leaves a new folder as it was.
        NonFiniteLossError: a term of the loss is no number; the last good checkpoint stays.
        CheckpointError: every checkpoint in `out` is damaged.
        DiskError: the disk is full; the last checkpoint stays.
        Interrupted: SIGINT or SIGTERM arrived; the step was finished and saved.

    Source: checkpoint choice by robust accuracy on held-out images is Rice, Wong & Kolter, ICML 2020. Deviation: with
    several processes each keeps its own batch-norm statistics within an epoch, and their mean after it.

    >>> import torch
    >>> from protoat.methods import PGDAT
    >>> from protoat.threats import Linf
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> objective = Objective(PGDAT(Linf(0.1), steps=2))
    >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    >>> batches = [(torch.rand(8, 1, 2, 2), torch.arange(8) % 2)] * 3
    >>> fit(net, batches, objective, epochs=2, optimizer=optimizer).updates
    6
    """
    check_parts(model, objective, schedule, validation_attack, accelerator)
    check_usable(optimizer)
    settings = Settings(
        epochs=epochs,
        schedule=as_schedule(schedule),
        validate_every=validate_every,
        select=select,
        checkpoint_every=checkpoint_every,
        averaging=as_averaging(averaging),
        clip_norm=clip_norm,
        compile=compile,
        memory_format=memory_format,
        seed=seed,
    )
    check_output(out, resume, progress)
    check_loggers(loggers, out, config)
    settings.check_needs(validation, out)
    folder = None if out is None else Path(out)
    accelerator = accelerator or make_accelerator(seed=seed)
    check_accelerator(accelerator)
    check_memory_format(memory_format, model, accelerator.device)
    if accelerator.is_main_process:
        warn_of_two_decays(objective, optimizer)
    with ExitStack() as stack:
        if folder is not None:
            stack.enter_context(working_on(folder))
        stack.enter_context(preserve_host_random_state(accelerator.device))
        if compile:
            stack.enter_context(several_backwards())
        dtypes = float_types(model)
        form: dict[str, Any] = {
            "dtypes": dtypes,
            "labelled": objective.method.labelled,
            "per_image": objective.per_image,
        }
        batches = Batches(train, accelerator, seed=seed, memory_format=memory_format, **form)
        learner = stack.enter_context(Learner(model, objective, optimizer, accelerator, settings))
        first = first_batch(train, accelerator.device, what="training", **form)
        _check_together(train, first[0], learner, len(batches), validated=validation is not None)
        watch = None
        if validation is not None:
            watch = Validation(
                validation,
                validation_attack or default_attack(objective),
                device=accelerator.device,
                seed=seed,
                rank=accelerator.process_index,
                world_size=accelerator.num_processes,
                dtypes=dtypes,
                name_worst=select == "worst-mode",
            )
        precision = chosen_precision(attack_precision, folder, learner, *first)
        stack.enter_context(attacks_in(precision))
        state = RunState(identity(learner, None if watch is None else watch.attack, precision, len(batches)))
        kept: dict[str, Kept] = {"training loader": batches}
        if watch is not None:
            kept["validation loader"] = watch.memory
        if isinstance(settings.schedule, TorchSchedule):
            kept["schedule"] = settings.schedule
        saver = stack.enter_context(Saver(folder, learner, state, kept))
        saver.begin(resume=resume)
        trackers = stack.enter_context(Trackers(loggers, folder, state.identity if config is None else config))
        class_names = train.data.class_names if isinstance(train, ImageLoader) else ()
        log = MetricsLog(folder, state.history, accelerator, trackers, class_names)
        done = state.epoch * len(batches) + state.batch
        show = progress if accelerator.is_main_process else False
        bar = stack.enter_context(ProgressBar(epochs * len(batches), done, show=show))
        stop = stack.enter_context(StopRequest())
        Loop(learner, batches, watch, state, saver, log, bar, stop).run()
        trackers.keep_records()
    best = None if state.best is None else state.best["epoch"]
    return FitResult(state.epoch, state.update, best, state.stopped, state.history)


def _check_together(train: Any, images: Tensor, learner: Learner, batches: int, *, validated: bool) -> None:
    """Refuses what does not fit the data or the length of the run, and warns of what never happens in it."""
    settings, objective = learner.settings, learner.objective
    check_single_image(
        train, images[:1].to(learner.accelerator.device), learner.unwrapped, learner.modes.learning, objective
    )
    if isinstance(train, ImageLoader):
        objective.count_classes(train.data.labels, train.data.num_classes)
    settings.schedule.check(
        learner.raw_optimizer,
        learner.base_lr,
        epochs=settings.epochs,
        updates=settings.epochs * batches * objective.updates_per_batch,
        validated=validated and settings.validate_every == 1,
    )
    warn_of_the_unreached(learner.unwrapped, objective, settings)
