"""Trains a recipe into a run folder, or resumes the run that it holds."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from protoat.attacks import Attack
from protoat.data import ImageLoader
from protoat.errors import UserError
from protoat.evaluation.threat_lint import reach
from protoat.methods import Method
from protoat.methods.per_image import PerImage
from protoat.models.memory_format import MemoryFormat, check_memory_format, narrow_layer
from protoat.recipes.fingerprint import settings_of
from protoat.recipes.recipe import Recipe
from protoat.regularizers import Regularizer, SoftTriple
from protoat.runs.build import Parts, build
from protoat.runs.images import data_facts
from protoat.runs.store import check_free, claim, environment
from protoat.runs.threads import on_fitting_threads
from protoat.spelling import setting
from protoat.storage.locks import on_main, working_on
from protoat.storage.parsing import parse_yaml
from protoat.training import FitResult, StepDecay, fit, make_accelerator
from protoat.training.devices import Precision
from protoat.training.saver import saved_threads
from protoat.training.trackers import Loggers, check_loggers

logger = logging.getLogger(__name__)

_PRECISIONS: dict[str, Precision] = {"fp32": "no", "fp16": "fp16", "bf16": "bf16"}


def train(recipe: Recipe, out: Path | str, *, progress: bool | None = None, loggers: Loggers = None) -> FitResult:
    """Trains into a run folder, or resumes the run it holds.

    Nothing is written before data and objects are there and fit together, and one process at a time trains there.

    Args:
        recipe: from `read_recipe`.
        out: the folder; it may hold an earlier, shorter part of the same run and nothing else.
        progress: see `protoat.fit`.
        loggers: trackers, which are told the recipe, see `protoat.fit`; they are no part of a run.

    Raises:
        ValueError: choices that do not fit; a folder that holds another recipe (the keys that differ are named), was
            begun with other data, or that another process is at work on.
        DataNotFoundError: the data is not there.
        NonFiniteLossError, CheckpointError, DiskError, Interrupted: see `protoat.fit`.
    """
    out = Path(out)
    check_loggers(loggers, out)
    check_free(out, recipe.text)
    parts = build(recipe)
    accelerator = make_accelerator(precision=precision_of(recipe), seed=recipe.seed)
    loader = training_loader(recipe, parts, accelerator)
    memory_format = memory_format_of(recipe, parts.model, accelerator.device)

    def begin() -> None:
        facts = data_facts(parts.train, parts.validation)
        if found is not None:
            facts["inventory"] = found.to_json()
        if parts.objective.modes is not None and (counts := parts.objective.modes.prototypes_per_class) is not None:
            facts["prototypes_per_class"] = counts
        if (names := parts.prototype_modes) is not None:
            facts["prototype_modes"] = names
        if parts.initialised is not None:
            facts["initialised"] = parts.initialised
        claim(out, recipe.text, facts, environment(accelerator.device, accelerator.num_processes))

    found = recipe.data.inventory()
    if found is not None:
        logger.log(logging.WARNING if found.leaks else logging.INFO, "%s: %s", recipe.data.name, found)
    _say_short_reach(parts.objective.method)
    _say_early_merges(recipe, parts.objective.regularizer)
    with (
        working_on(out),
        on_fitting_threads(
            parts.model,
            first_images(recipe, parts, memory_format),
            accelerator,
            kept=saved_threads(out / "checkpoints"),
        ),
    ):
        on_main(begin, f"begin a run in {out}")
        logger.info(levers(recipe, accelerator, memory_format))
        return fitting(recipe, parts, loader, accelerator, memory_format)(
            validation=parts.validation,
            validation_attack=parts.validation_attack,
            validate_every=recipe.validate_every,
            select=recipe.select,
            out=out,
            checkpoint_every=recipe.checkpoint_every,
            averaging=recipe.averaging,
            progress=progress,
            loggers=loggers,
            config=settings_of(parse_yaml(recipe.text)),
        )


def fitting(
    recipe: Recipe, parts: Parts, loader: ImageLoader, accelerator: Accelerator, memory_format: MemoryFormat
) -> partial[FitResult]:
    """`fit` with every argument that affects a training step; those for records and output are left open."""
    return partial(
        fit,
        parts.model,
        loader,
        parts.objective,
        epochs=recipe.epochs,
        optimizer=parts.optimizer,
        schedule=recipe.schedule,
        accelerator=accelerator,
        clip_norm=recipe.clip_norm,
        compile=recipe.compile,
        attack_precision=recipe.attack_precision,
        memory_format=memory_format,
        seed=recipe.seed,
    )


def precision_of(recipe: Recipe) -> Precision:
    """The precision of the recipe in Accelerate's words."""
    return _PRECISIONS[recipe.precision]


def training_loader(recipe: Recipe, parts: Parts, accelerator: Accelerator) -> ImageLoader:
    """The training images in batches, this process's share of them.

    Raises:
        ValueError: batches that the processes cannot share.
    """
    processes = accelerator.num_processes
    if recipe.batch_size % processes:
        raise UserError(f"{setting(batch_size=recipe.batch_size)} cannot be shared by {processes} processes")
    share = len(parts.train) // processes
    return ImageLoader(
        parts.train,
        drop_last=share > 1 and share % (recipe.batch_size // processes) == 1,  # batch norm cannot train on one image
        batch_size=recipe.batch_size // processes,
        augment=recipe.augment,
        seed=recipe.seed,
        origins=parts.objective.per_image,
        device=accelerator.device,
        rank=accelerator.process_index,
        world_size=processes,
    )


def first_images(recipe: Recipe, parts: Parts, memory_format: MemoryFormat) -> Tensor:
    """A batch of training images, laid out as in training."""
    images = parts.train.pixels(slice(recipe.batch_size))
    return images if memory_format is None else images.contiguous(memory_format=torch.channels_last)


def memory_format_of(recipe: Recipe, model: nn.Module, device: torch.device) -> MemoryFormat:
    """What the recipe says, else the fastest: CPUs and tensor cores want channels last, a GPU in float32 does not."""
    if recipe.memory_format is None:
        wanted = recipe.precision != "fp32" if device.type == "cuda" else narrow_layer(model) is None
    else:
        wanted = recipe.memory_format == "channels_last"
    chosen: MemoryFormat = "channels_last" if wanted else None
    check_memory_format(chosen, model, device)
    return chosen


def levers(recipe: Recipe, accelerator: Accelerator, memory_format: MemoryFormat) -> str:
    """What makes this run fast, in one line."""
    attack = getattr(recipe.method(recipe.threat), "attack", None)
    attacking = ""
    if isinstance(attack, Attack):
        exact = recipe.attack_precision == "fp32" or attack.gradient_steps is None
        passes = "" if exact else f", passes in {recipe.attack_precision}"
        attacking = f"while attacking: parameters frozen, batch norm in {attack.bn} mode{passes}; "
    return (
        f"{accelerator.device.type} x {accelerator.num_processes}, {torch.get_num_threads()} threads; {attacking}"
        f"{recipe.precision}, {memory_format or 'contiguous'}, {'compiled' if recipe.compile else 'eager'}"
    )


def _say_early_merges(recipe: Recipe, regularizer: Regularizer | None) -> None:
    """Warns of prototypes that merge before the learning rate drops, while they are still on their way."""
    first = regularizer.first_merge(recipe.epochs) if isinstance(regularizer, SoftTriple) else None
    drops = recipe.schedule.drops(recipe.epochs) if isinstance(recipe.schedule, StepDecay) else []
    if first is not None and drops and first < drops[0] < recipe.epochs:
        logger.warning(
            "prototypes merge from the end of epoch %d on, and the learning rate drops after epoch %g; to merge then, "
            "write %s",
            first,
            drops[0],
            setting({"regularizer.merge_start": round(drops[0] / recipe.epochs, 4)}),
        )


def _say_short_reach(method: Method) -> None:
    """Warns of training against an attack that cannot cross the ball, such as one whose steps suit another radius."""
    attack = getattr(method, "attack", None)
    if not isinstance(attack, Attack) or isinstance(method, PerImage):  # whose perturbations grow over the epochs
        return
    for finding in reach({"the attack of training": attack}):
        if finding.code == "short-reach":
            logger.warning("%s", finding.text)
