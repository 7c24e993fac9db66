"""From a recipe to trained weights in a run folder, and back."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer

from protoat.attacks import Attack
from protoat.attacks.base import attacking
from protoat.data import ImageData, ImageLoader, regroup, split_validation
from protoat.errors import UserError
from protoat.evaluation.threat_lint import reach
from protoat.functional.forward import output_of
from protoat.methods import Method
from protoat.objective import Objective
from protoat.pretraining import Contrastive
from protoat.recipes.own_code import trusting
from protoat.recipes.recipe import Recipe
from protoat.regularizers import Regularizer, SoftTriple
from protoat.runs.encoder import build_network, hand_over, load_encoder
from protoat.runs.feasible import check_batch, check_network, check_size, within_memory
from protoat.runs.store import check_data, check_free, claim, environment
from protoat.storage.locks import on_main, working_on
from protoat.training import Averaging, FitResult, StepDecay, fit, make_accelerator, parameter_groups
from protoat.training.devices import Precision
from protoat.training.memory_format import MemoryFormat, check_memory_format, narrow_layer
from protoat.training.optimizer_state import check_usable

__all__ = ["Parts", "build", "check_images", "load_images", "load_run", "train"]

logger = logging.getLogger(__name__)

_PRECISIONS: dict[str, Precision] = {"fp32": "no", "fp16": "fp16", "bf16": "bf16"}


@dataclass(frozen=True)
class Parts:
    """The objects of a run, and, where weights were taken over, a record of what matched."""

    train: ImageData
    validation: ImageData | None
    model: nn.Module
    objective: Objective
    optimizer: Optimizer
    initialised: dict[str, Any] | None = None


def build(recipe: Recipe) -> Parts:
    """Loads the data and builds what learns; weights and prototypes depend on `Recipe.seed` only.

    Raises:
        ValueError: choices that do not fit each other or the data.
        DataNotFoundError: the data is not there.
    """
    method = recipe.method(recipe.threat)
    if isinstance(method, Contrastive) and (recipe.regularizer is not None or recipe.validation_size):
        raise UserError(
            f"{type(method).__name__} pre-trains without labels, so there is nothing for a regularizer or for held-out "
            "images to do; write regularizer=none and validation_size=0"
        )
    images, validation = _learned_from(recipe)
    rule = recipe.averaging
    if isinstance(rule, Averaging) and rule.needs_validation and validation is None:
        raise UserError(f"averaging {type(rule).__name__} decides by held-out images; write validation_size=1000")
    check_batch(recipe.batch_size, images.shape, 0 if recipe.augment is None else recipe.augment.padding)
    initialised = None
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        if not recipe.trust:  # what code of the user's own does twice is theirs to say
            check_size(lambda: _network(recipe, recipe.method(recipe.threat), images), "the network")
        with within_memory("the network"):
            model = build_network(recipe, images.num_classes, images.shape)
        check_network(model, images.num_classes, images.shape)
        if recipe.initialise is not None:
            with trusting(recipe.trust):
                model, initialised = hand_over(model, recipe.initialise)
        if isinstance(method, Contrastive):
            model = method.encoder(model)
        objective = _objective(recipe, method, model, images)
    # An optimizer's own defaults say which rate and decay the recipe gives the network.
    given = _optimizer(recipe, [nn.Parameter(torch.zeros(1))]).defaults
    if recipe.schedule is not None:
        recipe.schedule.lr(given["lr"], 0, recipe.epochs, 1)  # one that does not fit says so
    groups = parameter_groups(
        model,
        objective,
        lr=given["lr"],
        prototype_lr_factor=recipe.prototype_lr_factor,
        weight_decay=given.get("weight_decay", 0.0),
    )
    return Parts(images, validation, model, objective, _optimizer(recipe, groups), initialised)


def _network(recipe: Recipe, method: Method, images: ImageData) -> nn.Module:
    """The network, and what a method of pre-training learns beside it."""
    model = build_network(recipe, images.num_classes, images.shape)
    if not isinstance(method, Contrastive):
        return model
    method.prepare(model)
    return nn.ModuleList([model, method.head])


def _optimizer(recipe: Recipe, parameters: list[Any]) -> Optimizer:
    try:
        optimizer = recipe.optimizer(parameters)
    except (ValueError, TypeError) as error:
        raise UserError(f"the optimizer cannot be built: {error}") from error
    check_usable(optimizer)
    return optimizer


def load_images(recipe: Recipe, split: Literal["train", "test"]) -> ImageData:
    """A split of the recipe's data, regrouped."""
    recipe.data.labelled = not recipe.pretrains
    data = recipe.data.load(split)
    return data if recipe.groups is None else regroup(data, recipe.groups)


def _learned_from(recipe: Recipe) -> tuple[ImageData, ImageData | None]:
    """The images that a run trains on, and those it holds out."""
    images = load_images(recipe, "train")
    own = None if recipe.pretrains else recipe.data.load_validation()
    if own is not None:  # images that the data set sets apart for this, in place of some of train
        return images, own if recipe.groups is None else regroup(own, recipe.groups)
    if not recipe.validation_size:
        return images, None
    try:
        return split_validation(images, recipe.validation_size, recipe.seed)
    except ValueError as error:
        raise UserError(f"validation_size: {error}, or 0 to hold out none") from error


def check_images(recipe: Recipe, folder: Path) -> None:
    """Refuses images that are not those of a run, as `train` does when it resumes one; says where there are none.

    Raises:
        ValueError: says what has changed.
    """
    if recipe.data.available():
        check_data(folder, _facts(*_learned_from(recipe)))
    else:
        logger.warning("the images of %s are not compared: %s", folder, recipe.data.not_found())


def _objective(recipe: Recipe, method: Method, model: nn.Module, images: ImageData) -> Objective:
    method.check_classes(images.num_classes)
    if recipe.regularizer is None:
        return Objective(method, label_smoothing=recipe.label_smoothing)
    with attacking(model), torch.no_grad():
        embedding = output_of(model, torch.zeros(1, *images.shape)).embedding
    if not embedding.shape[1]:
        raise UserError(
            f"the model {type(model).__name__} returns logits only, and a regularizer needs embeddings; write "
            "regularizer=none, or return protoat.Output"
        )
    built = partial(recipe.regularizer, images.num_classes, embedding.shape[1])
    if not recipe.trust:
        check_size(built, "the regularizer")
    with within_memory("the regularizer"):
        regularizer = built()
    return Objective(
        method,
        regularizer,
        weight=recipe.weight,
        norm_weight=recipe.norm_weight,
        norm=recipe.norm,
        dml_input=recipe.dml_input,
        label_smoothing=recipe.label_smoothing,
    )


def _say_early_merges(recipe: Recipe, regularizer: Regularizer | None) -> None:
    """Warns of prototypes that merge before the learning rate drops, while they are still on their way."""
    first = regularizer.first_merge(recipe.epochs) if isinstance(regularizer, SoftTriple) else None
    drops = recipe.schedule.milestones if isinstance(recipe.schedule, StepDecay) else []
    if first is not None and drops and first < drops[0]:
        logger.warning(
            "prototypes merge from the end of epoch %d on, and the learning rate drops after epoch %d; to merge then, "
            "write regularizer.merge_start=%.4g",
            first,
            drops[0],
            drops[0] / recipe.epochs,
        )


def _say_short_reach(method: Method) -> None:
    """Warns of training against an attack that cannot cross the ball, such as one whose steps suit another radius."""
    attack = getattr(method, "attack", None)
    findings = reach({"the attack of training": attack}) if isinstance(attack, Attack) else ()
    for finding in findings:
        if finding.code == "short-reach":
            logger.warning("%s", finding.text)


def train(recipe: Recipe, out: Path | str, *, progress: bool | None = None) -> FitResult:
    """Trains into a run folder, or resumes the run it holds.

    Nothing is written before data and objects are there and fit together, and one process at a time trains there.

    Args:
        recipe: from `read_recipe`.
        out: the folder; it may hold an earlier, shorter part of the same run and nothing else.
        progress: show a progress bar; None shows it on a terminal only.

    Raises:
        ValueError: choices that do not fit; a folder that holds another recipe (the keys that differ are named), was
            begun with other data, or that another process is at work on.
        DataNotFoundError: the data is not there.
        NonFiniteLossError, CheckpointError, DiskError, Interrupted: see `protoat.fit`.
    """
    out = Path(out)
    check_free(out, recipe.text)
    parts = build(recipe)
    accelerator = make_accelerator(precision=_PRECISIONS[recipe.precision], seed=recipe.seed)
    loader = _loader(recipe, parts.train, accelerator)
    memory_format = _memory_format(recipe, parts.model, accelerator.device)

    def begin() -> None:
        facts = _facts(parts.train, parts.validation)
        if found is not None:
            facts["inventory"] = found.to_json()
        if parts.initialised is not None:
            facts["initialised"] = parts.initialised
        claim(out, recipe.text, facts, environment(accelerator.device, accelerator.num_processes))

    found = recipe.data.inventory()
    if found is not None:
        logger.log(logging.WARNING if found.leaks else logging.INFO, "%s: %s", recipe.data.name, found)
    _say_short_reach(parts.objective.method)
    _say_early_merges(recipe, parts.objective.regularizer)
    with working_on(out):
        on_main(begin)
        logger.info(_levers(recipe, accelerator, memory_format))
        return fit(
            parts.model,
            loader,
            parts.objective,
            epochs=recipe.epochs,
            optimizer=parts.optimizer,
            schedule=recipe.schedule,
            validation=parts.validation,
            validate_every=recipe.validate_every,
            out=out,
            checkpoint_every=recipe.checkpoint_every,
            accelerator=accelerator,
            averaging=recipe.averaging,
            clip_norm=recipe.clip_norm,
            compile=recipe.compile,
            attack_precision=recipe.attack_precision,
            memory_format=memory_format,
            seed=recipe.seed,
            progress=progress,
        )


def _loader(recipe: Recipe, images: ImageData, accelerator: Accelerator) -> ImageLoader:
    processes = accelerator.num_processes
    if recipe.batch_size % processes:
        raise UserError(f"batch_size={recipe.batch_size} cannot be shared by {processes} processes")
    share = len(images) // processes
    return ImageLoader(
        images,
        drop_last=share > 1 and share % (recipe.batch_size // processes) == 1,  # batch norm cannot train on one image
        batch_size=recipe.batch_size // processes,
        augment=recipe.augment,
        seed=recipe.seed,
        origins=recipe.method(recipe.threat).per_image,
        device=accelerator.device,
        rank=accelerator.process_index,
        world_size=processes,
    )


def _memory_format(recipe: Recipe, model: nn.Module, device: torch.device) -> MemoryFormat:
    """What the recipe says, else the fastest: CPUs and tensor cores want channels last, a GPU in float32 does not."""
    if recipe.memory_format is None:
        wanted = recipe.precision != "fp32" if device.type == "cuda" else narrow_layer(model) is None
    else:
        wanted = recipe.memory_format == "channels_last"
    chosen: MemoryFormat = "channels_last" if wanted else None
    check_memory_format(chosen, model, device)
    return chosen


def _levers(recipe: Recipe, accelerator: Accelerator, memory_format: MemoryFormat) -> str:
    """What makes this run fast, in one line."""
    bn = getattr(getattr(recipe.method(recipe.threat), "attack", None), "bn", None)
    attacking = "" if bn is None else f"while attacking: parameters frozen, batch norm in {bn} mode; "
    return (
        f"{accelerator.device.type} x {accelerator.num_processes}, {torch.get_num_threads()} threads; {attacking}"
        f"{recipe.precision}, {memory_format or 'contiguous'}, {'compiled' if recipe.compile else 'eager'}"
    )


def _facts(images: ImageData, validation: ImageData | None) -> dict[str, Any]:
    return {
        "num_classes": images.num_classes,
        "shape": list(images.shape),
        "class_names": list(images.class_names),
        "mode_names": list(images.mode_names),
        "train_images": len(images),
        "validation_images": 0 if validation is None else len(validation),
        "data_sha256": [part.digest() for part in (images, validation) if part is not None],
    }


def load_run(
    folder: Path | str, *, weights: Literal["best", "last"] | None = None, trust: Collection[str] = ()
) -> tuple[nn.Module, Recipe, Path]:
    """The trained model of a run, in eval mode, its recipe, and the file its weights come from.

    Only safetensors and YAML are read, never a pickle, and a recipe that names other code than protoat's is refused.

    Args:
        folder: of the run.
        weights: ``"best"`` on held-out images or ``"last"``; None takes the best where there is one.
        trust: code of your own that the recipe may name, such as ``["mymodels.Net"]``.

    Raises:
        ValueError: not a run folder, no weights yet, weights of another architecture, a pre-trained encoder, whose
            head has learned nothing, or a recipe that names code which is neither protoat's nor trusted.
    """
    model, recipe, path, _ = load_encoder(folder, weights=weights, trust=trust)
    if recipe.pretrains:
        raise UserError(
            f"{folder} holds a pre-trained encoder without a head; write protoat evaluate {folder} --linear-probe, "
            f"or give it one: protoat train --initialise.run {folder}"
        )
    return model, recipe, path
