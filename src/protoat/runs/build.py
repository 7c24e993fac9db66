"""Builds the objects of a run from its recipe: data, network, objective, optimizer."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from protoat.attacks import Attack
from protoat.attacks.mode import attacking
from protoat.data import ImageData
from protoat.errors import UserError
from protoat.evaluation import attack_of_name
from protoat.functional.forward import output_of
from protoat.methods import Method
from protoat.models import MultiPrototypeHead, classifier_head, freeze_all_but
from protoat.models.head import multi_prototype_head
from protoat.models.transfer import transfer
from protoat.modes import DiscoveredModes, Modes
from protoat.objective import Objective
from protoat.pretraining import Contrastive
from protoat.pretraining.public import of_branch, torchvision_names
from protoat.pretraining.weights_file import read_tensors
from protoat.recipes.initialise import Initialise
from protoat.recipes.own_code import trusting
from protoat.recipes.recipe import Recipe
from protoat.runs.images import training_images
from protoat.runs.network import build_network, check_batch, check_network, check_size, within_memory
from protoat.runs.run import Run
from protoat.spelling import setting, together
from protoat.training import Averaging, parameter_groups
from protoat.training.optimizer_state import check_usable
from protoat.training.validation import default_attack

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """The objects of a run, and, where weights were taken over, a record of what matched.

    Attributes:
        validation_attack: under which held-out images are judged; None judges them clean.
    """

    train: ImageData
    validation: ImageData | None
    model: nn.Module
    objective: Objective
    optimizer: Optimizer
    validation_attack: Attack | None
    initialised: dict[str, Any] | None = None

    @property
    def prototype_modes(self) -> list[list[str]] | None:
        """For each class the modes that own its prototypes, in their places; None where prototypes are no modes'."""
        modes, head = self.objective.modes, multi_prototype_head(self.model)
        tied = getattr(self.objective.regularizer, "tied", False) if head is None else modes and modes.mode_weight
        return modes.names_in_places if modes is not None and tied else None


def build(recipe: Recipe) -> Parts:
    """Loads the data and builds what learns; weights and prototypes depend on `Recipe.seed` only.

    Raises:
        ValueError: choices that do not fit each other or the data.
        DataNotFoundError: the data is not there.
    """
    method = recipe.method(recipe.threat)
    idle = (recipe.regularizer, recipe.modes, recipe.validation_size or None)
    if isinstance(method, Contrastive) and idle != (None, None, None):
        raise UserError(
            f"{type(method).__name__} pre-trains without labels, so there is nothing for a regularizer, for modes or "
            f"for held-out images to do; write {together(regularizer=None, modes=None, validation_size=0)}"
        )
    images, validation = training_images(recipe)
    rule = recipe.averaging
    if isinstance(rule, Averaging) and rule.needs_validation and validation is None:
        raise UserError(
            f"averaging {type(rule).__name__} decides by held-out images; write {setting(validation_size=1000)}"
        )
    if recipe.select == "worst-mode" and validation is None:
        raise UserError(f"select worst-mode decides by held-out images; write {setting(validation_size=1000)}")
    attack = None if recipe.validation_attack is None else attack_of_name(recipe.validation_attack, recipe.threat)
    if recipe.validation_attack is not None and (attack is None or validation is None):
        raise UserError(
            f"{setting(validation_attack=recipe.validation_attack)} attacks no held-out images; "
            f"write an attack such as pgd20, and {setting(validation_size=1000)}"
        )
    check_batch(recipe.batch_size, images.shape, 0 if recipe.augment is None else recipe.augment.padding)
    initialised = None
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        modes = None if recipe.modes is None else recipe.modes(images)
        if not recipe.trust:  # what code of the user's own does twice is theirs to say
            check_size(lambda: _network(recipe, recipe.method(recipe.threat), images, modes), "the network")
        with within_memory("the network"):
            model = _built(recipe, images, modes)
        check_network(model, images.num_classes, images.shape)
        if recipe.initialise is not None:
            with trusting(recipe.trust):
                model, initialised = load_pretrained(model, recipe.initialise)
        if isinstance(method, Contrastive):
            model = method.encoder(model)
        if isinstance(modes, DiscoveredModes) and modes.encoder is not None:
            with trusting(recipe.trust):
                _discover(modes, modes.encoder, images)
        objective = _objective(recipe, method, model, images, modes)
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
    optimizer = _optimizer(recipe, groups)
    return Parts(images, validation, model, objective, optimizer, attack or default_attack(objective), initialised)


def _built(recipe: Recipe, images: ImageData, modes: Modes | None) -> nn.Module:
    prototypes = None if modes is None else modes.prototypes_per_class
    return build_network(recipe, images.num_classes, images.shape, prototypes)


def _network(recipe: Recipe, method: Method, images: ImageData, modes: Modes | None) -> nn.Module:
    """The network, and what a method of pre-training learns beside it."""
    model = _built(recipe, images, modes)
    if not isinstance(method, Contrastive):
        return model
    method.prepare(model)
    return nn.ModuleList([model, method.head])


def _discover(modes: DiscoveredModes, folder: Path, images: ImageData) -> None:
    """Finds modes by the embeddings of the network of a run.

    Raises:
        ValueError: see `Run.network`; or a run on images of another size.
    """
    run = Run(folder)
    if tuple(run.fact("shape")) != images.shape:
        raise UserError(
            f"{setting({'modes.encoder': str(folder)})} was trained on images of shape {tuple(run.fact('shape'))}, and "
            f"these have {images.shape}; name a run on images of this size"
        )
    with torch.random.fork_rng():  # what is drawn next does not depend on this choice
        network = run.network().model
    modes.discover(network)


def _optimizer(recipe: Recipe, parameters: list[Any]) -> Optimizer:
    try:
        optimizer = recipe.optimizer(parameters)
    except (ValueError, TypeError) as error:
        raise UserError(f"the optimizer cannot be built: {error}") from error
    check_usable(optimizer)
    return optimizer


def _objective(recipe: Recipe, method: Method, model: nn.Module, images: ImageData, modes: Modes | None) -> Objective:
    method.check_classes(images.num_classes)
    weighting = copy.deepcopy(recipe.weighting)  # it learns, and a recipe may be built twice
    if recipe.regularizer is None:
        return Objective(method, label_smoothing=recipe.label_smoothing, modes=modes, weighting=weighting)
    with attacking(model), torch.no_grad():
        embedding = output_of(model, torch.zeros(1, *images.shape)).embedding
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
        modes=modes,
        weighting=weighting,
    )


def load_pretrained(model: nn.Module, choice: Initialise) -> tuple[nn.Module, dict[str, Any]]:
    """`model` with the weights that `choice` names, frozen where they shall stay, and a record of what matched.

    Raises:
        ValueError: see `Run.network` and `read_tensors`; or nothing matches.
    """
    file, branch, head = choice.file, choice.branch, classifier_head(model)
    heads = [f"{name}.{key}" for name, part in model.named_modules() if part is head for key in head.state_dict()]
    if choice.run is not None:
        with torch.random.fork_rng():  # what is drawn next does not depend on this choice
            model_there, branch = Run(choice.run).network(branch=branch)
        tensors = model_there.state_dict()
        if choice.head != "loaded":
            tensors = {name: value for name, value in tensors.items() if name not in heads}
    else:
        tensors, branch = of_branch(read_tensors(file), branch)
        tensors = torchvision_names(tensors)
    try:
        report = transfer(tensors, model, leave=() if choice.head == "loaded" else heads)
    except ValueError as error:
        raise UserError(f"{file}: {error}") from error
    if choice.head == "zero":
        if isinstance(head, MultiPrototypeHead) and head.prototypes.shape[1] > 1:
            raise UserError(
                "at zero no gradient tells the prototypes of a class apart; "
                f"write {setting({'initialise.head': 'random'})}"
            )
        for parameter in head.parameters():
            nn.init.zeros_(parameter)
    logger.info("%s: %s", file, report)
    record = {"file": str(file), "sha256": choice.sha256, "branch": branch, **vars(report)}
    return freeze_all_but(model, choice.finetune), record
